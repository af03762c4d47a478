"""Modular arithmetic: a ∘ b mod p."""

import functools
import math
from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from egd_optax.grokking.problems.operations import (
    Encoding,
    binary_operation,
    check_size,
)
from egd_optax.grokking.problems.tasks import Task, check_range

Function = Callable[[np.ndarray, np.ndarray, int], np.ndarray]


class _Operation(NamedTuple):
    formula: str
    compute: Function
    # Which group's translations of the answers it may be learned by.
    multiplicative: bool = False


def _divide(a: np.ndarray, b: np.ndarray, p: int) -> np.ndarray:
    inverses = np.array([0] + [pow(x, -1, p) for x in range(1, p)])
    return np.where(b == 0, -1, a * inverses[b] % p)


def _divide_by_odd(a: np.ndarray, b: np.ndarray, p: int) -> np.ndarray:
    return np.where(b % 2 == 1, _divide(a, b, p), (a - b) % p)


# All of Power et al., arXiv 2201.02177, but for those on permutations.
OPERATIONS = {
    "addition": _Operation("a + b", lambda a, b, p: (a + b) % p),
    "subtraction": _Operation("a − b", lambda a, b, p: (a - b) % p),
    "multiplication": _Operation("a · b", lambda a, b, p: a * b % p, True),
    "division": _Operation("a / b", _divide, True),
    "division-by-odd": _Operation("(a / b if b odd, else a − b)", _divide_by_odd),
    "squares": _Operation("a² + b²", lambda a, b, p: (a * a + b * b) % p),
    "quadratic": _Operation(
        "a² + ab + b²", lambda a, b, p: (a * a + a * b + b * b) % p
    ),
    "quadratic-linear": _Operation(
        "a² + ab + b² + a", lambda a, b, p: (a * a + a * b + b * b + a) % p
    ),
    "cubic": _Operation("a³ + ab", lambda a, b, p: (a**3 + a * b) % p),
    "cubic-linear": _Operation(
        "a³ + ab² + b", lambda a, b, p: (a**3 + a * b * b + b) % p
    ),
}
# These divide by every number but 0.
_PRIME = ("division", "division-by-odd")


def modular_arithmetic(
    operation: str | Function, modulus: int, *, encoding: Encoding = "one-hot"
) -> Task:
    """All examples of a ∘ b mod p.

    Args:
      operation: a key of ``OPERATIONS``, or a function of arrays a and b and of p,
        with results from 0 to p − 1, or below 0 where there is none. Division is by
        b ≠ 0 and needs a prime modulus; the others take all p² pairs.
      modulus: p, at least 2.
      encoding: as in :func:`~egd_optax.grokking.problems.operations.binary_operation`.

    Returns:
      The task, with p classes, pairs in lexicographic order of (a, b).

    Raises:
      ValueError: unknown operation or encoding, modulus below 2 or too large,
        division by a composite modulus, or a function's result out of range.

    Example:
      >>> from egd_optax.grokking.problems.arithmetic import modular_arithmetic
      >>> task = modular_arithmetic("division", 5, encoding="tokens")
      >>> print(task.name, task.inputs[1], task.labels[1])
      a / b mod 5 [0 5 2 6] 0
      >>> task = modular_arithmetic(lambda a, b, p: (a + 2 * b) % p, 5)
      >>> print(task.name, task.labels[1])
      <lambda> mod 5 2
    """
    p = modulus
    if callable(operation):
        name = getattr(operation, "__name__", "a ∘ b")
        known = _Operation(name, operation)
    elif operation in OPERATIONS:
        known = OPERATIONS[operation]
    else:
        raise ValueError(
            f"unknown task {operation!r}: choose one of {', '.join(OPERATIONS)}"
        )
    check_range("modulus", p, at_least=2)
    check_size("modulus", p, encoding)
    divisor = _smallest_divisor(p)
    if operation in _PRIME and divisor < p:
        raise ValueError(
            f"modulus must be a prime for {operation}, and {p} is divisible by "
            f"{divisor}"
        )
    numbers = np.arange(p)
    table = known.compute(numbers[:, None], numbers[None, :], p)
    table = np.broadcast_to(table, (p, p))
    if table.max() >= p:
        raise ValueError(
            f"{known.formula} must give numbers below the modulus {p}, got "
            f"{table.max()}"
        )
    act = _products if known.multiplicative else _sums
    return binary_operation(
        f"{known.formula} mod {p}",
        table,
        encoding=encoding,
        translations=functools.partial(act, p),
    )


def _sums(p: int) -> np.ndarray:
    return (np.arange(p)[:, None] + np.arange(p)) % p


def _products(p: int) -> np.ndarray:
    units = [u for u in range(1, p) if math.gcd(u, p) == 1]
    return np.array(units)[:, None] * np.arange(p) % p


def _smallest_divisor(n: int) -> int:
    return next((d for d in range(2, math.isqrt(n) + 1) if n % d == 0), n)
