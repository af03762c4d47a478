"""A whole training run, for all seeds, as one compiled program."""

import dataclasses
import functools
import math
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx
from jax import lax

from egd_optax.grokking.checkpoints import Checkpoints
from egd_optax.grokking.history import History
from egd_optax.grokking.losses import LOSSES
from egd_optax.grokking.tasks import Split, Task, split

# Work between two looks at the clock: enough to hide the dispatch, and short enough
# for a progress bar.
_STEPS_PER_CHUNK = 100


@dataclasses.dataclass(frozen=True)
class Settings:
    """What a run is made of, apart from task, model and optimizer."""

    seeds: tuple[int, ...] = (0, 1, 2)
    """Each seed moves the initialization, the split and the order of batches."""
    max_steps: int = 1500
    """Budget of updates; the run ends with the last whole epoch within it."""
    batch_size: int = 512
    """Examples a step; what is left over at the end of an epoch is dropped."""
    train_fraction: float = 0.5
    """Share of all examples that is taken for training."""
    validation_fraction: float = 0.0
    """Share of the training part that is held out of it."""
    threshold: float = 0.95
    """Test accuracy that counts as generalization; it only ends runs."""
    patience: int | None = 20
    """A run ends after this many evaluations in a row at which all seeds were above
    the threshold; None: never before the budget."""
    epochs_per_evaluation: int = 1
    """Epochs between two evaluations."""
    relabel_every: int | None = None
    """Epochs after which the training part's labels are shuffled anew; None: never."""


class _Examples(NamedTuple):
    inputs: jax.Array
    labels: jax.Array


class _Member(NamedTuple):
    """One seed's state."""

    key: jax.Array
    split: Split
    params: Any
    opt_state: optax.OptState
    metrics: dict[str, jax.Array]  # of the last evaluation; zeros before the first


def train(
    task: Task,
    make_model: Callable[[nnx.Rngs], nnx.Module],
    optimizer: optax.GradientTransformation,
    settings: Settings,
    *,
    report: Callable[[History], None] | None = None,
    checkpoints: Checkpoints | None = None,
) -> History:
    """Trains one model a seed on a task and evaluates all of them after every epoch
    or after as many as the settings say.

    All steps run in one compiled program: a scan over steps inside a loop over
    evaluations, for all seeds. Accelerators take the seeds under ``vmap``; a CPU takes
    them one after another (``lax.map``), so that each seed runs only its own branches.

    Every update is given ``train_accuracy`` (and ``validation_accuracy``, where there
    is a validation part) of the last evaluation as extra arguments, for
    :func:`egd_optax.switch_on_metric`; nothing is ever told about test data.

    Args:
      task: the examples.
      make_model: a Flax NNX model from its random streams; it maps inputs
        ``(batch, ...)`` to outputs ``(batch, task.outputs)``.
      optimizer: any optax optimizer.
      settings: seeds, budget, batches and split.
      report: called with the history so far, several times a run.
      checkpoints: where the state is saved, and gone on from. The history is that of
        an undisturbed run, bit for bit.

    Returns:
      The history of all seeds.

    Raises:
      ValueError: settings that do not fit each other or the task.
    """
    check_settings(task, settings)
    steps_per_epoch = _steps_per_epoch(task, settings)
    steps_per_row = steps_per_epoch * settings.epochs_per_evaluation
    evaluations = settings.max_steps // steps_per_row
    chunk = min(evaluations, math.ceil(_STEPS_PER_CHUNK / steps_per_row))

    start = time.perf_counter()
    data = _Examples(jnp.asarray(task.inputs), jnp.asarray(task.labels))
    tx = optax.with_extra_args_support(optimizer)
    program = _Program(task, make_model, tx, settings, steps_per_epoch, chunk)
    members = jax.jit(
        lambda seeds, data: _over_seeds(lambda seed: program.begin(seed, data), seeds)
    )(jnp.array(settings.seeds), data)
    advance = (
        jax.jit(
            lambda members, first, count, data: _over_seeds(
                lambda member: program.advance(member, first, count, data), members
            ),
            donate_argnums=0,
        )
        .lower(members, 0, chunk, data)
        .compile()
    )
    compile_seconds = time.perf_counter() - start

    rows: list[dict[str, np.ndarray]] = []
    period, seconds_before = evaluations, 0.0
    if checkpoints is not None:
        period = math.ceil(checkpoints.every / steps_per_row)
        members, rows, seconds_before = checkpoints.restore(members)
    done, start = 0, time.perf_counter()
    while True:
        if rows:
            metrics = {k: np.concatenate([r[k] for r in rows]) for k in rows[0]}
            done = len(metrics["train_loss"])
            history = History(
                seeds=settings.seeds,
                steps=steps_per_row * np.arange(1, done + 1),
                steps_per_epoch=steps_per_epoch,
                metrics=metrics,
                compile_seconds=compile_seconds,
                run_seconds=seconds_before + time.perf_counter() - start,
            )
            finished = done == evaluations or _has_grokked(history, settings)
            if checkpoints is not None and (finished or done % period == 0):
                checkpoints.save(members, history)
            if report is not None:
                report(history)
            if finished:
                return history
        count = min(chunk, evaluations - done, period - done % period)
        members, measured = advance(members, done, count, data)
        rows.append({k: np.asarray(v).T[:count] for k, v in measured.items()})


def check_settings(task: Task, settings: Settings) -> None:
    """Raises ValueError, in one line, for settings that :func:`train` cannot take."""
    if not settings.seeds:
        raise ValueError("a run needs at least one seed, got none")
    for name in ("max_steps", "batch_size", "epochs_per_evaluation"):
        value = getattr(settings, name)
        if value < 1:
            raise ValueError(f"{name} must be at least 1, got {value}")
    if settings.patience is not None and settings.patience < 1:
        raise ValueError(f"patience must be at least 1, got {settings.patience}")
    if not 0 < settings.threshold <= 1:
        raise ValueError(f"the threshold must lie in (0, 1], got {settings.threshold}")
    if settings.relabel_every is not None and settings.relabel_every < 1:
        raise ValueError(
            f"relabel_every must be at least 1, got {settings.relabel_every}"
        )
    per_epoch = _steps_per_epoch(task, settings)
    if not per_epoch:
        raise ValueError(
            f"a batch of {settings.batch_size} is larger than the training part of "
            f"{_train_size(task, settings)} examples"
        )
    if settings.max_steps < per_epoch * settings.epochs_per_evaluation:
        raise ValueError(
            f"a budget of {settings.max_steps} steps ends before the first evaluation, "
            f"after {per_epoch * settings.epochs_per_evaluation}"
        )


def _steps_per_epoch(task: Task, settings: Settings) -> int:
    return _train_size(task, settings) // settings.batch_size


def _train_size(task: Task, settings: Settings) -> int:
    # The same for every seed.
    parts = jax.eval_shape(
        lambda: _split(len(task.labels), jax.random.key(0), settings)
    )
    return len(parts.train)


def _split(examples: int, key: jax.Array, settings: Settings) -> Split:
    return split(
        examples,
        key,
        train_fraction=settings.train_fraction,
        validation_fraction=settings.validation_fraction,
    )


def _has_grokked(history: History, settings: Settings) -> bool:
    if settings.patience is None or len(history.steps) < settings.patience:
        return False
    recent = history.metrics["test_accuracy"][-settings.patience :]
    return bool(np.all(recent >= settings.threshold))


@dataclasses.dataclass(frozen=True)
class _Program:
    """The functions of a run that are compiled; each takes one seed's member."""

    task: Task
    make_model: Callable[[nnx.Rngs], nnx.Module]
    optimizer: optax.GradientTransformationExtraArgs
    settings: Settings
    steps_per_epoch: int
    chunk: int  # most evaluations of one call of advance

    def begin(self, seed: jax.Array, data: _Examples) -> _Member:
        init_key, split_key, key = jax.random.split(jax.random.key(seed), 3)
        params = nnx.state(self.make_model(nnx.Rngs(init_key)), nnx.Param)
        parts = _split(len(data.labels), split_key, self.settings)
        metrics = jax.eval_shape(self.evaluate, params, parts, data)
        return _Member(
            key=key,
            split=parts,
            params=params,
            opt_state=self.optimizer.init(params),
            metrics=jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), metrics),
        )

    def advance(
        self, member: _Member, first: jax.Array, count: jax.Array, data: _Examples
    ) -> tuple[_Member, dict[str, jax.Array]]:
        """``count`` epochs from number ``first`` on, and the metrics after each."""

        def body(
            i: jax.Array, carry: tuple[_Member, dict[str, jax.Array]]
        ) -> tuple[_Member, dict[str, jax.Array]]:
            member, log = carry
            member = self.until_evaluation(member, first + i, data)
            log = jax.tree.map(lambda a, x: a.at[i].set(x), log, member.metrics)
            return member, log

        log = jax.tree.map(lambda x: jnp.zeros(self.chunk, x.dtype), member.metrics)
        return lax.fori_loop(0, count, body, (member, log))

    def until_evaluation(
        self, member: _Member, number: jax.Array, data: _Examples
    ) -> _Member:
        epochs = self.settings.epochs_per_evaluation
        first, after = number * epochs, (number + 1) * epochs
        member = lax.fori_loop(
            first, after, lambda i, member: self.epoch(member, i, data), member
        )
        data = self.relabelled(member, after - 1, data)
        metrics = self.evaluate(member.params, member.split, data)
        return member._replace(metrics=metrics)

    def epoch(self, member: _Member, number: jax.Array, data: _Examples) -> _Member:
        shape = self.steps_per_epoch, self.settings.batch_size
        key = jax.random.fold_in(member.key, number)
        order = jax.random.permutation(key, member.split.train)
        data = self.relabelled(member, number, data)
        # What a recipe may watch: all but the test part.
        watched = {k: v for k, v in member.metrics.items() if not k.startswith("test")}

        def step(carry: Any, batch: jax.Array) -> tuple[Any, None]:
            params, opt_state = carry
            grads, _ = jax.grad(self.measure, has_aux=True)(params, batch, data)
            updates, opt_state = self.optimizer.update(
                grads, opt_state, params, **watched
            )
            return (optax.apply_updates(params, updates), opt_state), None

        (params, opt_state), _ = lax.scan(
            step,
            (member.params, member.opt_state),
            order[: math.prod(shape)].reshape(shape),
        )
        return member._replace(params=params, opt_state=opt_state)

    def relabelled(
        self, member: _Member, number: jax.Array, data: _Examples
    ) -> _Examples:
        if self.settings.relabel_every is None:
            return data
        train = member.split.train
        # A stream of its own, apart from that of the epochs.
        key = jax.random.fold_in(member.key, 2**31)
        key = jax.random.fold_in(key, number // self.settings.relabel_every)
        shuffled = data.labels[jax.random.permutation(key, train)]
        return data._replace(labels=data.labels.at[train].set(shuffled))

    def evaluate(
        self, params: Any, parts: Split, data: _Examples
    ) -> dict[str, jax.Array]:
        metrics: dict[str, jax.Array] = {}
        for part, indices in parts._asdict().items():
            if len(indices):
                loss, accuracy = self.measure(params, indices, data)
                metrics |= {f"{part}_loss": loss, f"{part}_accuracy": accuracy}
        return metrics

    def measure(
        self, params: Any, indices: jax.Array, data: _Examples
    ) -> tuple[jax.Array, jax.Array]:
        """Mean loss and accuracy over some examples."""
        labels = data.labels[indices]
        outputs = nnx.merge(self.graphdef, params)(data.inputs[indices])
        losses, right = LOSSES[self.task.loss](outputs, labels)
        return jnp.mean(losses), jnp.mean(right, dtype=jnp.float32)

    @functools.cached_property
    def graphdef(self) -> nnx.GraphDef[nnx.Module]:
        return nnx.split(nnx.eval_shape(lambda: self.make_model(nnx.Rngs(0))))[0]


def _over_seeds(fn: Callable[..., Any], members: Any) -> Any:
    if jax.default_backend() == "cpu":
        return lax.map(fn, members)
    return jax.vmap(fn)(members)
