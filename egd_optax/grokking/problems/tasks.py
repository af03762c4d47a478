"""Datasets as arrays, and their split into training, validation and test part."""

import dataclasses
from collections.abc import Callable
from typing import Literal, NamedTuple

import jax
import numpy as np

Loss = Literal["cross-entropy", "squared-error"]


@dataclasses.dataclass(frozen=True)
class Task:
    """A classification problem, all of whose examples are known."""

    name: str
    inputs: np.ndarray  # (examples, ...), float32 features or int32 tokens
    labels: np.ndarray  # (examples,), int32
    classes: int
    loss: Loss = "cross-entropy"
    # Of a binary operation: how many elements it is on, and the permutations of these
    # by which a group acts on them, (elements of the group, symbols).
    symbols: int | None = None
    translations: Callable[[], np.ndarray] | None = None

    @property
    def outputs(self) -> int:
        """Outputs of a model: a logit a class, or one number of either sign.

        The squared error of two classes is that of one output from −1 or 1.
        """
        two_sided = self.loss == "squared-error" and self.classes == 2
        return 1 if two_sided else self.classes


class Split(NamedTuple):
    """Disjoint indices of a task's examples."""

    train: jax.Array  # (n,), int32
    validation: jax.Array  # (m,), int32; empty unless asked for
    test: jax.Array  # (examples - n - m,), int32


def split(
    examples: int,
    key: jax.Array,
    *,
    train_fraction: float = 0.5,
    validation_fraction: float = 0.0,
) -> Split:
    """Shuffles the examples and cuts them into training, validation and test part.

    Args:
      examples: number of examples of the task.
      key: random key of the shuffle.
      train_fraction: share of all examples taken for training, in (0, 1).
      validation_fraction: share of the training part held out of it, in [0, 1): for
        switches and the choice of hyperparameters, which must not see test data.

    Returns:
      Indices into the inputs and labels of the task.

    Raises:
      ValueError: a fraction is out of its range, or leaves a part it asks for empty.
    """
    if not 0 < train_fraction < 1:
        raise ValueError(
            f"train_fraction must lie strictly between 0 and 1, got {train_fraction}"
        )
    if not 0 <= validation_fraction < 1:
        raise ValueError(
            f"validation_fraction must lie in [0, 1), got {validation_fraction}"
        )
    known = int(train_fraction * examples)
    held_out = int(validation_fraction * known)
    if known in (held_out, examples) or (validation_fraction and not held_out):
        held = f" and a validation_fraction of {validation_fraction}"
        raise ValueError(
            f"of {examples} examples, a train_fraction of {train_fraction}"
            f"{held if validation_fraction else ''} would leave a part empty"
        )
    order = jax.random.permutation(key, examples)
    return Split(order[held_out:known], order[:held_out], order[known:])


def check_range(
    name: str, value: int, *, at_least: int = 1, at_most: int = 2**31 - 1
) -> None:
    """Refuses a number out of range; more than 32 bits overflow inside of JAX."""
    if value < at_least:
        raise ValueError(f"{name} must be at least {at_least}, got {value}")
    if value > at_most:
        raise ValueError(f"{name} must be at most {at_most}, got {value}")


def check_entries(name: str, value: int, entries: int) -> None:
    """Refuses what takes more memory than a run of this workbench can have."""
    if entries > 2**30:
        raise ValueError(
            f"{name} must be smaller, got {value}: it takes arrays of more than 2^30 "
            "entries"
        )
