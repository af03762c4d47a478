"""What a run is made of, apart from task, model and optimizer."""

import dataclasses
from typing import Any

import jax

from egd_optax.grokking.problems.tasks import Split, Task, check_range, split

# Shares of labels that are wrong.
WRONG_LABELS = ("corrupted_labels", "label_noise")


@dataclasses.dataclass(frozen=True)
class Settings:
    """What a run is made of, apart from task, model and optimizer."""

    seeds: tuple[int, ...] = (0, 1, 2)
    """Each seed moves the initialization, the split and the order of batches."""
    max_steps: int = 1500
    """Budget of updates; the run ends with the last whole epoch within it."""
    batch_size: int | None = 512
    """Examples a step; what is left over at the end of an epoch is dropped. None: all
    of the training part, so that an epoch is a step."""
    train_fraction: float = 0.5
    """Share of all examples that is taken for training."""
    validation_fraction: float = 0.0
    """Share of the training part that is held out of it."""
    threshold: float = 0.95
    """Test accuracy that counts as generalization; it only ends runs."""
    patience: int | None = 20
    """A seed rests after this many evaluations in a row at the threshold or above,
    and the run ends when all do; None: never before the budget."""
    epochs_per_evaluation: int = 1
    """Epochs between two evaluations."""
    relabel_every: int | None = None
    """Epochs after which the training part's labels are shuffled anew; None: never."""
    corrupted_labels: float = 0.0
    """Share of the training part whose labels are wrong, the same for the whole run;
    accuracy on the training part is that on the labels as they are given."""
    label_noise: float = 0.0
    """Probability that a label is another one, drawn anew at each step."""

    def described(self) -> dict[str, Any]:
        """By name, for files that say what a result depends on.

        Wrong labels are left out where there are none: files that were written before
        they could be asked for are still those of the same run.
        """
        every = dataclasses.asdict(self)
        return {name: x for name, x in every.items() if x or name not in WRONG_LABELS}


def check_settings(task: Task, settings: Settings) -> None:
    """Raises ValueError, in one line, for settings that :func:`train` cannot take."""
    if not settings.seeds:
        raise ValueError("a run needs at least one seed, got none")
    for name in ("max_steps", "epochs_per_evaluation"):
        check_range(name, getattr(settings, name))
    for name in ("batch_size", "patience", "relabel_every"):
        if getattr(settings, name) is not None:
            check_range(name, getattr(settings, name))
    if not 0 < settings.threshold <= 1:
        raise ValueError(f"threshold must lie in (0, 1], got {settings.threshold}")
    for name in WRONG_LABELS:
        if not 0 <= getattr(settings, name) <= 1:
            raise ValueError(
                f"{name} must lie in [0, 1], got {getattr(settings, name)}"
            )
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
    return _train_size(task, settings) // batch_size(task, settings)


def batch_size(task: Task, settings: Settings) -> int:
    """Examples a step."""
    if settings.batch_size is None:
        return _train_size(task, settings)
    return settings.batch_size


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
