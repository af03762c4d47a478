"""What a run is made of, apart from task, model and optimizer."""

import dataclasses

import jax

from egd_optax.grokking.problems.tasks import Split, Task, check_range, split


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


def check_settings(task: Task, settings: Settings) -> None:
    """Raises ValueError, in one line, for settings that :func:`train` cannot take."""
    if not settings.seeds:
        raise ValueError("a run needs at least one seed, got none")
    for name in ("max_steps", "batch_size", "epochs_per_evaluation"):
        check_range(name, getattr(settings, name))
    for name in ("patience", "relabel_every"):
        if getattr(settings, name) is not None:
            check_range(name, getattr(settings, name))
    if not 0 < settings.threshold <= 1:
        raise ValueError(f"threshold must lie in (0, 1], got {settings.threshold}")
    per_epoch = steps_per_epoch(task, settings)
    if not per_epoch:
        raise ValueError(
            "batch_size must not exceed the training part: a batch of "
            f"{settings.batch_size} is larger than that of "
            f"{_train_size(task, settings)} examples"
        )
    if settings.max_steps < per_epoch * settings.epochs_per_evaluation:
        raise ValueError(
            "max_steps must reach the first evaluation: a budget of "
            f"{settings.max_steps} steps ends before it, after "
            f"{per_epoch * settings.epochs_per_evaluation} (epochs_per_evaluation: "
            f"{settings.epochs_per_evaluation})"
        )


def steps_per_epoch(task: Task, settings: Settings) -> int:
    """Whole batches in the training part."""
    return _train_size(task, settings) // settings.batch_size


def _train_size(task: Task, settings: Settings) -> int:
    # The same for every seed.
    parts = jax.eval_shape(
        lambda: split_for(settings, len(task.labels), jax.random.key(0))
    )
    return len(parts.train)


def split_for(settings: Settings, examples: int, key: jax.Array) -> Split:
    """The parts that the settings ask for."""
    return split(
        examples,
        key,
        train_fraction=settings.train_fraction,
        validation_fraction=settings.validation_fraction,
    )
