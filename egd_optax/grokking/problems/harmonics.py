"""Functions on the elements of a group, by irreducible representation."""

from typing import NamedTuple

import numpy as np


class Harmonics(NamedTuple):
    """An orthonormal basis of the functions on n elements, sorted into components.

    Component 0 has what no translation changes, the constants; component k of a cyclic
    group has cos(2πkx/n) and sin(2πkx/n). Of other groups each is one irreducible
    representation (or one and its complex conjugate) with all of its copies, those of
    the least dimension first.
    """

    basis: np.ndarray  # (n, n), float64, a function in each column
    component: np.ndarray  # (n,), int: of each column


def harmonics(translations: np.ndarray) -> Harmonics:
    r"""The harmonics of a group that acts on n elements.

    The sums over the group's conjugacy classes commute with all translations, so that
    irreducible representations are their common eigenspaces. One weighted sum with
    random weights tells all of them apart:

    .. math:: M = \sum_C w_C \sum_{u \in C} (P_u + P_u^T) / 2

    Args:
      translations: the permutations by which it acts, ``(elements of the group, n)``,
        as a task has them.

    Source: Diaconis, *Group Representations in Probability and Statistics* (1988), for
    the fact; for networks Chughtai et al., arXiv 2302.03025.

    Example:
      >>> import numpy as np
      >>> from egd_optax.grokking.problems.arithmetic import modular_arithmetic
      >>> from egd_optax.grokking.problems.harmonics import harmonics
      >>> task = modular_arithmetic("addition", 5)
      >>> basis, component = harmonics(task.translations())
      >>> print(component)
      [0 1 1 2 2]
      >>> first_wave = np.cos(2 * np.pi * np.arange(5) / 5)
      >>> print(bool(np.abs(first_wave @ basis)[component != 1].max() < 1e-12))
      True
    """
    moves = translations
    n = moves.shape[1]
    # The same for every run: what differs between two draws is rounding alone.
    draw = np.random.default_rng(0)
    classes = _conjugacy_classes(moves)
    weights = draw.standard_normal(classes.max() + 1)[classes]
    total = np.zeros((n, n))
    for move, weight in zip(moves, weights, strict=True):
        total[move, np.arange(n)] += weight
    values, basis = np.linalg.eigh((total + total.T) / 2)
    apart = np.diff(values) > 1e-9 * np.max(np.abs(values))
    found = np.concatenate([[0], np.cumsum(apart)])
    # Constants first, then small ones, and of a cyclic group slow waves before fast.
    shifted = basis[moves[min(1, len(moves) - 1)]]
    sizes = np.bincount(found)
    slowness = np.bincount(found, np.sum(basis * shifted, axis=0)) / sizes
    mean = np.zeros((n, n))
    np.add.at(mean, (np.broadcast_to(np.arange(n), moves.shape), moves), 1 / len(moves))
    changed = np.bincount(found, np.sum((mean @ basis - basis) ** 2, axis=0))
    rank = np.lexsort([-slowness.round(9), sizes, changed > 1e-6])
    component = np.argsort(rank)[found]
    order = np.argsort(component, kind="stable")
    return Harmonics(basis[:, order], component[order])


def _conjugacy_classes(moves: np.ndarray) -> np.ndarray:
    """Number of the class of each permutation."""
    if all(np.array_equal(a[moves], moves[:, a]) for a in moves):
        return np.arange(len(moves))
    numbers = {move.tobytes(): number for number, move in enumerate(moves)}
    inverses = np.argsort(moves, axis=1)
    found = np.full(len(moves), -1)
    for number, move in enumerate(moves):
        if found[number] < 0:
            conjugates = np.take_along_axis(moves[:, move], inverses, axis=1)
            members = {numbers[each.tobytes()] for each in conjugates}
            found[list(members)] = found.max() + 1
    return found
