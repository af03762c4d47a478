"""Binary operations on n elements, from a table: all examples of a ∘ b."""

import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Literal, get_args

import numpy as np

from egd_optax.grokking.problems.tasks import Task, check_entries

Encoding = Literal["one-hot", "tokens", "three-tokens"]


def binary_operation(
    name: str,
    table: np.ndarray,
    *,
    encoding: Encoding = "one-hot",
    translations: Callable[[], np.ndarray] | None = None,
) -> Task:
    """All examples of a ∘ b, for a and b out of n elements.

    Args:
      name: of the task.
      table: whole numbers ``(n, n)``: a ∘ b in row a and column b; below 0 where it is
        not defined, which is no example.
      encoding: ``"one-hot"``, two one-hots side by side, float32 ``(examples, 2n)``,
        as Saheb Pasand and Dohmatob (arXiv 2510.04930) have it; ``"tokens"``, the
        four tokens a, ∘, b, =, int32 ``(examples, 4)`` with ∘ = n and = being n + 1,
        as Power et al. (arXiv 2201.02177) have it; ``"three-tokens"``, a, b, = with
        = being n, as Nanda et al. (arXiv 2301.05217).
      translations: gives the permutations of the n elements by which a group acts on
        them, ``(elements of the group, n)``, for
        :func:`~egd_optax.grokking.problems.harmonics.harmonics`.

    Returns:
      The task, pairs in lexicographic order of (a, b); it has n classes, or as many
      as the table's largest number asks for.

    Raises:
      ValueError: an unknown encoding, a table that is no square of whole numbers, has
        none, or is too large.

    Example:
      >>> import numpy as np
      >>> from egd_optax.grokking.problems.operations import binary_operation
      >>> a, b = np.meshgrid(np.arange(5), np.arange(5), indexing="ij")
      >>> task = binary_operation("larger", np.maximum(a, b), encoding="tokens")
      >>> print(task.inputs[7], task.labels[7])
      [1 5 2 6] 2
    """
    table = np.asarray(table)
    _check_table(table)
    n = len(table)
    check_size("table", n, encoding)
    a, b = np.nonzero(table >= 0)
    if not len(a):
        raise ValueError(f"a table without results has no examples: all {n}² are none")
    if encoding == "one-hot":
        eye = np.eye(n, dtype=np.float32)
        inputs = np.concatenate([eye[a], eye[b]], axis=1)
    else:
        first, second = np.full_like(a, n), np.full_like(a, n + 1)
        tokens = (a, first, b, second) if encoding == "tokens" else (a, b, first)
        inputs = np.stack(tokens, axis=1).astype(np.int32)
    labels = table[a, b].astype(np.int32)
    classes = max(n, int(labels.max()) + 1)
    return Task(name, inputs, labels, classes, symbols=n, translations=translations)


def check_size(name: str, n: int, encoding: str) -> None:
    """Refuses an unknown encoding, and what takes too much memory in it."""
    if encoding not in get_args(Encoding):
        choices = ", ".join(get_args(Encoding))
        raise ValueError(f"unknown encoding {encoding!r}: choose one of {choices}")
    check_entries(name, n, n * n * (2 * n if encoding == "one-hot" else 4))


# Of a header that asks for more than there is, and of half an archive, too.
_NO_TABLE = (
    *(OSError, ValueError, EOFError),
    *(MemoryError, OverflowError, zipfile.BadZipFile),
)


def read_table(path: Path) -> np.ndarray:
    """A table from a file: ``.npy``, or text with commas between numbers.

    Raises:
      ValueError: there is none; one line says why.
    """
    try:
        if path.suffix == ".npy":
            with path.open("rb") as file:
                table = np.load(file)
            if not isinstance(table, np.ndarray):
                raise ValueError("it is an archive of several")
        else:
            # Spreadsheets begin with a byte-order mark.
            lines = path.read_text(encoding="utf-8-sig").split("\n")
            rows = [[*map(float, line.split(","))] for line in lines if line.strip()]
            for number, row in enumerate(rows):
                if len(row) != len(rows[0]):
                    raise ValueError(
                        f"row 0 has {len(rows[0])} of them, row {number} {len(row)}"
                    )
            table = np.array(rows)
    except _NO_TABLE as error:
        why = (error.strerror if isinstance(error, OSError) else None) or str(error)
        why = why.splitlines()[0] if why else "it takes too much memory"
        raise ValueError(f"{path} has no table of whole numbers: {why}") from error
    _check_table(table, str(path))
    return table.astype(np.int64)


def _check_table(table: np.ndarray, name: str = "table") -> None:
    if table.ndim != 2 or len(table) != table.shape[1] or not table.size:
        raise ValueError(
            f"{name} must be square, a row and a column for each element, got shape "
            f"{table.shape}"
        )
    if table.dtype.kind not in "iuf":
        raise ValueError(f"{name} must have whole numbers, got {table.dtype}")
    wrong = table[table != np.floor(table)]
    if wrong.size:
        raise ValueError(f"{name} must have whole numbers, got {wrong[0]}")
    # Not every dtype has the bounds that they are compared with.
    least, greatest = float(table.min()), float(table.max())
    # A class costs an output of the model.
    if greatest >= 2**20:
        raise ValueError(f"{name} must have numbers below 2^20, got {greatest:.0f}")
    if least <= -(2**63):
        raise ValueError(f"{name} must have numbers of 64 bits, got {least:g}")
