"""A whole training run, for all seeds, as one compiled program."""

import math
import time
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx

from egd_optax.grokking.problems.settings import (
    Settings,
    check_settings,
    steps_per_epoch,
)
from egd_optax.grokking.problems.tasks import Task
from egd_optax.grokking.training.checkpoints import Checkpoints
from egd_optax.grokking.training.devices import (
    filled_up,
    first,
    is_first,
    on_host,
    over_devices,
    over_seeds,
)
from egd_optax.grokking.training.history import History
from egd_optax.grokking.training.program import Examples, Program, check_names
from egd_optax.grokking.training.snapshots import Measure

# Work between two looks at the clock: enough to hide the dispatch, and short enough
# for a progress bar.
_STEPS_PER_CHUNK = 100


def train(
    task: Task,
    make_model: Callable[[nnx.Rngs], nnx.Module],
    optimizer: optax.GradientTransformation,
    settings: Settings,
    *,
    report: Callable[[History], None] | None = None,
    checkpoints: Checkpoints | None = None,
    measures: Mapping[str, Measure] = MappingProxyType({}),
) -> History:
    """Trains one model a seed on a task and evaluates all of them after every epoch
    or after as many as the settings say.

    All steps run in one compiled program: a scan over steps inside a loop over
    evaluations, for all seeds. These are laid over all devices of all processes that
    JAX knows; every process calls this function alike, the first of them reports and
    saves. Within a device accelerators take the seeds under ``vmap``; a CPU takes them
    one after another (``lax.map``), so that each seed runs only its own branches.

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
      ValueError: settings that do not fit each other or the task; a measure that
        the task or the model does not have.
    """
    check_settings(task, settings)
    check_names(measures)
    per_epoch = steps_per_epoch(task, settings)
    steps_per_row = per_epoch * settings.epochs_per_evaluation
    evaluations = settings.max_steps // steps_per_row
    chunk = min(evaluations, math.ceil(_STEPS_PER_CHUNK / steps_per_row))

    start = time.perf_counter()
    data = Examples(jnp.asarray(task.inputs), jnp.asarray(task.labels))
    tx = optax.with_extra_args_support(optimizer)
    program = Program(task, make_model, tx, settings, per_epoch, chunk, measures)
    runs = len(settings.seeds)

    def begun(seeds: jax.Array, data: Examples) -> Any:
        return over_seeds(lambda seed: program.begin(seed, data), seeds)

    def advanced(
        members: Any, stayed: jax.Array, begin: jax.Array, count: jax.Array, data: Any
    ) -> Any:
        def spread(runs: Any, *shared: Any) -> Any:
            return over_seeds(lambda run: program.advance(*run, *shared), runs)

        return over_devices(spread)((members, stayed), begin, count, data)

    seeds = filled_up(np.array(settings.seeds))
    members = jax.jit(over_devices(begun))(seeds, data)
    advance = (
        jax.jit(advanced, donate_argnums=0)
        .lower(members, np.zeros(len(seeds), np.int32), 0, chunk, data)
        .compile()
    )
    compile_seconds = time.perf_counter() - start

    rows: list[dict[str, np.ndarray]] = []
    period, seconds_before = evaluations, 0.0
    if checkpoints is not None:
        period = math.ceil(checkpoints.every / steps_per_row)
        found, rows, seconds_before = checkpoints.restore(first(members, runs))
        members = filled_up(found) if rows else members
    patience = settings.patience or evaluations  # those of the whole run: never
    done, stayed, start = 0, np.zeros(runs, np.int32), time.perf_counter()
    while True:
        if rows:
            metrics = {k: np.concatenate([r[k] for r in rows]) for k in rows[0]}
            stayed = _stayed(metrics["test_accuracy"] >= settings.threshold)
            # What all of them rested through is no part of the run.
            rested = max(0, int(min(stayed)) - patience)
            done = len(metrics["train_loss"]) - rested
            metrics = {name: values[:done] for name, values in metrics.items()}
            history = History(
                seeds=settings.seeds,
                steps=steps_per_row * np.arange(1, done + 1),
                steps_per_epoch=per_epoch,
                metrics=metrics,
                compile_seconds=compile_seconds,
                run_seconds=seconds_before + time.perf_counter() - start,
            )
            finished = done == evaluations or min(stayed) >= patience
            if checkpoints is not None and (finished or done % period == 0):
                saved = first(members, runs)
                if is_first():
                    checkpoints.save(saved, history)
            if report is not None and is_first():
                report(history)
            if finished:
                return history
        count = min(chunk, evaluations - done, period - done % period)
        members, measured = advance(members, filled_up(stayed), done, count, data)
        measured = on_host(measured, runs)
        rows.append({k: v.T[:count] for k, v in measured.items()})


def check_measures(
    task: Task,
    make_model: Callable[[nnx.Rngs], nnx.Module],
    settings: Settings,
    measures: Mapping[str, Measure],
) -> None:
    """Raises ValueError, in one line, for measures that :func:`train` cannot take."""
    check_names(measures)
    data = Examples(jnp.asarray(task.inputs), jnp.asarray(task.labels))
    plain = optax.with_extra_args_support(optax.sgd(0.0))
    program = Program(task, make_model, plain, settings, 1, 1, measures)
    jax.eval_shape(program.begin, 0, data)


def _stayed(above: np.ndarray) -> np.ndarray:
    """Evaluations in a row, up to the last one, that each seed was above.

    Args:
      above: whether it was, (evaluations, seeds).
    """
    return np.logical_and.accumulate(above[::-1]).sum(axis=0, dtype=np.int32)
