"""The polynomials of a Newton–Schulz iteration that converges in the fewest steps."""

import functools
import math
from collections.abc import Callable

# Rounding may carry a singular value out of the interval that the next polynomial
# expects, and above it they grow steeply.
_CUSHION = 1.01
# A polynomial that lifts the small singular values fastest presses some of the large
# ones as far down, where rounding ruins them. None falls below this share of the
# largest; at 0.1 a matrix with a condition number of ten came out half as exact, at
# 0.5 it takes another step to get as far.
_DEEPEST = 0.5

# The last step, p(x) = 35/8 x³ - 42/8 x⁵ + 15/8 x⁷, has p(1) = 1 and p' = p'' = 0
# there: an error e at one becomes 17.5 e³. And it is flat at zero, so that what the
# steps before it could not lift is dropped.
LAST = (35 / 8, -42 / 8, 15 / 8)
_LAST_ERROR = 17.5


@functools.cache
def quintics(
    steps: int, eps: float
) -> tuple[tuple[tuple[float, float, float], ...], float]:
    r"""Coefficients of ``steps`` odd quintics whose composition has the value one.

    The polynomials p(x) = a x + b x³ + c x⁵ are applied one after another, and
    :data:`LAST` after them. What comes out is one up to ``eps``, for every x in [l, 1]
    with an l that is about 4 times smaller for each further polynomial.

    Each is the best there is on its interval: its extrema
    reach equally far above and below one (Polar Express; the restraint from pressing
    values down is this package's). Up to the scales of x and of p it is

    .. math:: p(x) = x^5/5 - (1 + t) x^3/3 + t x, \qquad p'(x) = (x^2 - 1)(x^2 - t)

    with its maximum at √t and its minimum at 1. Hence, from the last to the first, the
    interval that must be reached gives t, and p the interval from which it is reached.

    Args:
      steps: number of polynomials.
      eps: accuracy of the value one after :data:`LAST`.

    Returns:
      The coefficients (a, b, c), the first polynomial first, and l.

    Source: Amsel, Persson, Musco and Gower, *The Polar Express*, arXiv 2505.16932.
    """
    error = math.cbrt(eps / _LAST_ERROR)
    low, high = 1 - error, 1 + error
    found = []
    for _ in range(steps):
        image = high
        ratio = low / high
        if ratio < _DEEPEST:
            image, ratio = high / _CUSHION, _DEEPEST
        t = _inverse(lambda t: (5 * t - 1) / (t**1.5 * (5 - t)), ratio, 0.2, 1)
        quintic = functools.partial(_quintic, t=t)
        root = math.sqrt(t)
        scale = image / quintic(root)
        low = _inverse(quintic, min(low / scale, quintic(1)), 0, root)
        high = _inverse(quintic, quintic(root), 1, 2)
        found.append((scale * t, -scale * (1 + t) / 3, scale / 5))
    if found:
        # The first one takes values up to one instead of up to ``high``.
        top = high / _CUSHION
        a, b, c = found[-1]
        found[-1] = (a * top, b * top**3, c * top**5)
        low /= top
    return tuple(reversed(found)), low


def _quintic(x: float, t: float) -> float:
    return x**5 / 5 - (1 + t) * x**3 / 3 + t * x


def _inverse(
    increasing: Callable[[float], float], value: float, low: float, high: float
) -> float:
    """Where an increasing function has a value, by bisection."""
    for _ in range(60):
        middle = (low + high) / 2
        if increasing(middle) < value:
            low = middle
        else:
            high = middle
    return (low + high) / 2
