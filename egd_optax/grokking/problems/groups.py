"""Finite groups, and the tasks on them."""

import itertools
import math
import re
from collections.abc import Callable
from pathlib import Path

import numpy as np

from egd_optax.grokking.problems.operations import (
    Encoding,
    binary_operation,
    check_size,
    read_table,
)
from egd_optax.grokking.problems.tasks import Task

# What is asked of two elements, from the group's table and its inverses.
WORDS: dict[str, Callable[[np.ndarray, np.ndarray], np.ndarray]] = {
    "xy": lambda product, inverse: product,
    "xyx": lambda product, inverse: product[product, np.arange(len(product))[:, None]],
    "xyx^-1": lambda product, inverse: product[product, inverse[:, None]],
}
_KINDS = "C97 (cyclic), D48 (dihedral), S5 (symmetric) or A5 (alternating)"
# Of the elements: more have more pairs than a run takes.
_MOST = 8192


def group(
    name: str = "S5", word: str = "xy", *, encoding: Encoding = "one-hot"
) -> Task:
    """All pairs of elements of a group, as Power et al. and Chughtai et al. have them.

    Args:
      name: a kind and a number: C97, the cyclic group of order 97; D48, the dihedral
        one of order 96; S5 and A5, all and the even permutations of 5; or a file with
        its table, .csv or .npy, as
        :func:`~egd_optax.grokking.problems.operations.read_table` takes it.
      word: what is asked of x and y: ``"xy"``, ``"xyx"``, or ``"xyx^-1"``.
      encoding: as in :func:`~egd_optax.grokking.problems.operations.binary_operation`.

    Returns:
      The task, with a class for each element.

    Raises:
      ValueError: an unknown name, word or encoding, a group that is too large, or a
        file without a table of a group; one line says why.

    Source: Power et al., arXiv 2201.02177; Chughtai et al., *A Toy Model of
    Universality*, arXiv 2302.03025.

    Example:
      >>> from egd_optax.grokking.problems.groups import group
      >>> task = group("S3", "xyx^-1", encoding="tokens")
      >>> print(task.name, task.inputs.shape, task.classes)
      xyx⁻¹ in S3 (36, 4) 6
    """
    if word not in WORDS:
        raise ValueError(f"unknown word {word!r}: choose one of {', '.join(WORDS)}")
    if name.endswith((".csv", ".npy", ".txt")):
        table, name = read_table(Path(name)), Path(name).stem
        check_group(table, name)
    else:
        table = group_table(name)
    check_size("group", len(table), encoding)
    identity = _identity(table)
    inverse = np.argmax(table == identity, axis=1)
    written = word.replace("^-1", "⁻¹")
    return binary_operation(
        f"{written} in {name}",
        WORDS[word](table, inverse),
        encoding=encoding,
        translations=lambda: table,
    )


def group_table(name: str) -> np.ndarray:
    """Multiplication table ``(n, n)`` of a group by its name, as :func:`group` has it.

    Raises:
      ValueError: there is no such name, or its group is too large.
    """
    found = re.fullmatch(r"([CDSA])([1-9]\d{0,5})", name)
    if not found:
        raise ValueError(
            f"unknown group {name!r}: name one as {_KINDS}, or a file with its table"
        )
    kind, n = found[1], int(found[2])
    permutations = math.factorial(min(n, 9))  # 9! is more than enough
    orders = {"C": n, "D": 2 * n, "S": permutations, "A": max(permutations // 2, 1)}
    if orders[kind] > _MOST:
        raise ValueError(
            f"group must have at most {_MOST} elements, got {name} with more"
        )
    if kind == "C":
        return (np.arange(n)[:, None] + np.arange(n)) % n
    if kind == "D":
        return _dihedral(n)
    every = itertools.permutations(range(n))
    return _of_permutations([p for p in every if kind == "S" or _is_even(p)])


def check_group(table: np.ndarray, name: str) -> None:
    """Raises ValueError, in one line, for a table that is none of a group."""
    n = len(table)
    numbers = np.arange(n)
    for lines, what in (table, "row"), (table.T, "column"):
        wrong = np.nonzero((np.sort(lines, axis=1) != numbers).any(axis=1))[0]
        if wrong.size:
            raise ValueError(
                f"{name} is no group: {what} {wrong[0]} of its table does not have "
                f"each number from 0 to {n - 1} once"
            )
    if _identity(table) is None:
        raise ValueError(
            f"{name} is no group: no element leaves all others as they are"
        )
    for a in range(n):
        broken = np.argwhere(table[table[a]] != table[a][table])
        if broken.size:
            b, c = broken[0]
            raise ValueError(
                f"{name} is no group: ({a} ∘ {b}) ∘ {c} is not {a} ∘ ({b} ∘ {c})"
            )


def _identity(table: np.ndarray) -> int | None:
    numbers = np.arange(len(table))
    neutral = (table == numbers).all(axis=1) & (numbers == table.T).all(axis=1)
    return int(np.argmax(neutral)) if neutral.any() else None


def _dihedral(n: int) -> np.ndarray:
    # Element r + n·s: turned r times after it was mirrored s times.
    turned, mirrored = np.arange(2 * n) % n, np.arange(2 * n) // n
    sign = 1 - 2 * mirrored[:, None]
    turns = (turned[:, None] + sign * turned) % n
    return turns + n * (mirrored[:, None] ^ mirrored)


def _is_even(permutation: tuple[int, ...]) -> bool:
    inversions = itertools.combinations(permutation, 2)
    return sum(a > b for a, b in inversions) % 2 == 0


def _of_permutations(elements: list[tuple[int, ...]]) -> np.ndarray:
    """Products x ∘ y, x after y; elements come in lexicographic order."""
    images = np.array(elements)
    n = images.shape[1]
    places = n ** np.arange(n)[::-1]
    codes = images @ places
    return np.stack([np.searchsorted(codes, x[images] @ places) for x in images])
