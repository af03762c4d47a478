"""Parities of a few of many bits."""

import numpy as np

from egd_optax.grokking.problems.tasks import Task, check_entries, check_range


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
      >>> from egd_optax.grokking.problems.parities import sparse_parity
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
