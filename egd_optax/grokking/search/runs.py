"""Many runs of one method as one compiled program, their settings traced."""

import dataclasses
import functools
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import lax

from egd_optax.grokking.problems.problem import Problem
from egd_optax.grokking.problems.settings import (
    WRONG_LABELS,
    check_settings,
    steps_per_epoch,
)
from egd_optax.grokking.problems.tasks import Split
from egd_optax.grokking.training.devices import on_host, over_devices, over_seeds
from egd_optax.grokking.training.program import (
    Examples,
    Member,
    Program,
)

# Runs of one call and device: enough to hide the dispatch of short ones, and few
# enough that progress shows and little is lost when the process is killed.
_RUNS_PER_DEVICE = {"cpu": 8}
_RUNS_PER_ACCELERATOR = 64


class Runs(NamedTuple):
    """What came out of some runs."""

    # (runs,), float: steps to the threshold, to the end those from which it held;
    # infinite: it was not reached, or did not hold.
    solved: np.ndarray
    memorized: np.ndarray  # (runs,), float: the same for the training examples
    ended: np.ndarray  # (runs,), int: steps run
    train_accuracy: np.ndarray  # (runs,), at the last of them
    held_out_accuracy: np.ndarray  # (runs,)


# A search needs no accuracy to four digits: an evaluation looks at no more of a part,
# the first of which are a random sample. That of what is held out has an error of 0.5 %
# at 95 %; the training part only says whether a run is hopeless.
_TRAIN, _HELD_OUT = 256, 2048


class _Sampled(Program):
    """Evaluates the training part and what is held out, on a sample of each."""

    def looked_at(self, parts: Split) -> Split:
        none = parts.train[:0]
        judged = parts._replace(test=none) if len(parts.validation) else parts
        return Split(
            train=judged.train[:_TRAIN],
            validation=judged.validation[:_HELD_OUT],
            test=judged.test[:_HELD_OUT],
        )


class Runner:
    """Runs a method on a problem, compiled once whatever its settings.

    A run ends when accuracy on held-out examples reaches the problem's threshold, when
    the training loss is no number any more, when not half of the training examples are
    right at half of the budget, or with the budget. Runs are spread over all devices of
    all processes; on a CPU a device takes its own in turn, so that each ends for
    itself.

    Args:
      problem: its settings' budget is that of every run. Held out is the validation
        part, where there is one, else the test part: that of a problem which no result
        is reported on.
      build: an optimizer from its settings.
      names: of the settings; the shares of wrong labels, which are the problem's, may
        be among them.
      to_the_end: whether runs go on to their budget, and a problem is solved by what
        holds until then.
    """

    def __init__(
        self,
        problem: Problem,
        build: Callable[..., optax.GradientTransformation],
        names: Iterable[str],
        *,
        to_the_end: bool = False,
    ):
        check_settings(problem.task, problem.settings)
        self._to_the_end = to_the_end
        self._problem, self._build, self._names = problem, build, tuple(names)
        per_device = _RUNS_PER_DEVICE.get(jax.default_backend(), _RUNS_PER_ACCELERATOR)
        self.chunk = per_device * jax.device_count()

    def __call__(
        self,
        settings: Sequence[Mapping[str, float]],
        seeds: Sequence[int],
        at_most: float = math.inf,
    ) -> Runs:
        """At most ``chunk`` runs: settings and seed of each.

        Args:
          settings: of each run.
          seeds: of each run.
          at_most: steps after which they end, if that is before the budget.
        """
        missing = self.chunk - len(seeds)
        table = [[each[name] for name in self._names] for each in settings]
        values = np.array(table + missing * table[:1], np.float32)
        numbers = np.array([*seeds, *[seeds[0]] * missing], np.int32)
        # What fills up the batch ends before it begins.
        limit = self._evaluations
        if math.isfinite(at_most):
            limit = min(limit, int(at_most) // self._steps_per_evaluation)
        budgets = np.repeat([limit, 0], [len(seeds), missing]).astype(np.int32)
        # Dealt out like cards: a device has a block of the batch, and the first of
        # them would have all runs of a batch that is not full.
        order = np.arange(self.chunk).reshape(-1, jax.device_count()).T.ravel()
        dealt = tuple(x[order] for x in (values, numbers, budgets))
        found = on_host(self._compiled(dealt, self._data), self.chunk)
        back = np.argsort(order)[: len(seeds)]
        return Runs(*(x[back] for x in found))

    @property
    def _steps_per_evaluation(self) -> int:
        settings = self._problem.settings
        per_epoch = steps_per_epoch(self._problem.task, settings)
        return per_epoch * settings.epochs_per_evaluation

    @property
    def _evaluations(self) -> int:
        return self._problem.settings.max_steps // self._steps_per_evaluation

    @functools.cached_property
    def _data(self) -> Examples:
        task = self._problem.task
        return Examples(jnp.asarray(task.inputs), jnp.asarray(task.labels))

    @functools.cached_property
    def _compiled(self) -> Callable[..., Any]:
        def in_turn(runs: Any, data: Examples) -> Any:
            return over_seeds(lambda run: self._run(run, data), runs)

        return jax.jit(over_devices(in_turn))

    def _run(self, run: tuple[jax.Array, jax.Array, jax.Array], data: Examples) -> Any:
        values, seed, budget = run
        problem = self._problem
        chosen = dict(zip(self._names, values, strict=True))
        wrong = {name: chosen.pop(name) for name in WRONG_LABELS if name in chosen}
        settings = dataclasses.replace(problem.settings, **wrong)
        optimizer = self._build(**chosen)
        program = _Sampled(
            problem.task,
            problem.make_model,
            optax.with_extra_args_support(optimizer),
            settings,
            steps_per_epoch(problem.task, settings),
            chunk=1,
        )
        part = "validation" if settings.validation_fraction else "test"

        def goes_on(carry: tuple[Member, jax.Array, jax.Array, jax.Array]) -> jax.Array:
            member, number, _, since = carry
            metrics = member.metrics
            solved = (since > 0) & (not self._to_the_end)
            at_half = number == (self._evaluations + 1) // 2
            lost = ~jnp.isfinite(metrics["train_loss"])
            lost |= at_half & (metrics["train_accuracy"] < 0.5)
            return (number < budget) & ~solved & ~lost

        def one_more(carry: tuple[Member, jax.Array, jax.Array, jax.Array]) -> Any:
            member, number, memorized, since = carry
            member, number = program.until_evaluation(member, number, data), number + 1
            metrics = member.metrics
            known = metrics["train_accuracy"] >= settings.threshold
            memorized = jnp.minimum(memorized, jnp.where(known, number, jnp.inf))
            # The evaluation from which on all were above; 0: the last one was not.
            above = metrics[f"{part}_accuracy"] >= settings.threshold
            since = jnp.where(above, jnp.where(since > 0, since, number), 0)
            return member, number, memorized, since

        none = jnp.zeros([], jnp.int32)
        begun = program.begin(seed, data), none, jnp.array(jnp.inf), none
        member, number, memorized, since = lax.while_loop(goes_on, one_more, begun)
        metrics, steps = member.metrics, self._steps_per_evaluation
        return (
            jnp.where(since > 0, since * steps, jnp.inf),
            memorized * steps,
            number * steps,
            metrics["train_accuracy"],
            metrics[f"{part}_accuracy"],
        )
