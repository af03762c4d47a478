"""Polar factor by matrix products alone."""

import functools
import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from egd_optax.arguments import checked_count, checked_dtype, checked_matrix
from egd_optax.meshes import keep_sharding
from egd_optax.polar.linear_algebra import (
    as_wide,
    at_least_float32,
    gram_matrix,
    identity_like,
    product,
    unit_scale,
)

Coefficients = tuple[float, float, float]

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


def polar_by_newton_schulz(
    x: jax.Array, *, steps: int = 10, dtype: jax.typing.DTypeLike | None = None
) -> jax.Array:
    r"""Polar factor of each matrix, by matrix products alone.

    For X = U S Vᴴ returns U Vᴴ. Each step multiplies X, on its smaller side, with a
    polynomial of the Gram matrix,

    .. math:: X \leftarrow (a I + b R + c R^2) X, \qquad R = X X^H

    and so applies an odd polynomial to all singular values. The first steps lift the
    small ones, by a factor of nearly four each; the last three bring all to one. The
    number of steps says up to which condition number the result is exact:

    ========  ====  ====  ====  ====  ====  ====  ====  ====  ====
    steps        4     5     6     7     8     9    10    11    12
    float32     13    50   1e2   6e2   2e3   8e3   3e4   1e5   4e5
    bfloat16    36   1e2   4e2   1e3   6e3   2e4   8e4   3e5   1e6
    ========  ====  ====  ====  ====  ====  ====  ====  ====  ====

    The norm of X is known up to a factor of at most m^(1/8), for the smaller side m:
    where the singular values are nearly equal but for a few, the table shrinks by that.
    Smaller directions come out below one, and those twenty times smaller nearly vanish:
    the noise that stands for the null space of a rank-deficient matrix is dropped, with
    an error of 2e-4 in float32, unless there are more than 11 steps.

    Args:
      x: array of shape ``(..., m, n)``, floating or complex; leading axes are batch
        axes.
      steps: number of steps, a static integer.
      dtype: the dtype computed in; None takes that of ``x``, at least float32. The
        cheap mode is ``steps=5, dtype=jnp.bfloat16``: its error is 0.02 at a condition
        number of 10, 0.08 at 100.

    Returns:
      Array of the shape and dtype of ``x``. A zero matrix gives zero, a matrix with a
      NaN or an infinity gives NaN; scaling ``x`` by a positive number changes nothing.

    Raises:
      ArgumentError: ``x`` has fewer than two axes or is neither floating nor complex;
        ``steps`` is no static integer from 1 to 100, or ``dtype`` does not hold numbers
        like those of ``x``.

    Example:
      >>> import jax.numpy as jnp
      >>> from egd_optax import polar_by_newton_schulz
      >>> x = jnp.array([[3.0, 0.0, 0.0], [0.0, 0.0, -0.001]])
      >>> bool(jnp.allclose(polar_by_newton_schulz(x), jnp.sign(x), atol=1e-6))
      True

    Source: Amsel, Persson, Musco and Gower, *The Polar Express*, arXiv 2505.16932, for
    polynomials that are the best of each step; dropping what is not reached, and
    forming the Gram matrix anew where rounding asks for it, are this package's.
    """
    x, steps = checked_matrix(x), checked_count("steps", steps, at_most=100)
    working = _working_dtype(x, dtype)
    return keep_sharding(lambda x: _polar_by_newton_schulz(x, steps, working), x)


def _working_dtype(
    x: jax.Array, dtype: jax.typing.DTypeLike | None
) -> jax.typing.DTypeLike:
    if dtype is None:
        return at_least_float32(x.dtype)
    kind = jnp.complexfloating if jnp.iscomplexobj(x) else jnp.floating
    wanted = f"a {kind.__name__} one for a matrix of {x.dtype}"
    return checked_dtype("dtype", dtype, kind, wanted)


@functools.partial(jax.jit, static_argnames=("steps", "dtype"))
def _polar_by_newton_schulz(
    x: jax.Array, steps: int, dtype: jax.typing.DTypeLike
) -> jax.Array:
    if x.size == 0:
        return x
    wide, back = as_wide(x)
    return back(unrolled(unit_scale(wide).astype(dtype), steps))


def unrolled(x: jax.Array, steps: int) -> jax.Array:
    """Polar factor of wide matrices ``(..., m, n)``, m ≤ n, with entries below four."""
    stages = _stages(x, steps)
    gram = gram_matrix(x)
    square = product(gram, gram)
    scale = _inverse_norm(gram, square).astype(x.dtype)
    x, gram, square = scale * x, scale**2 * gram, scale**4 * square
    x = product(_composed(gram, next(stages), square), x)
    for stage in stages:
        x = product(_composed(gram_matrix(x), stage), x)
    return x


def _stages(x: jax.Array, steps: int) -> Iterator[Sequence[Coefficients]]:
    """The polynomials, those together that work on one Gram matrix of x.

    Several on one save products with x where x is wide. But the rounding errors of a
    Gram matrix are relative to its largest directions, and every step lifts them with
    the small ones: two steps are harmless, more only after those have risen.
    """
    eps = float(jnp.finfo(x.dtype).eps)
    polynomials = [*quintics(steps - 1, eps)[0], LAST]
    m, n = x.shape[-2:]
    # k steps on one Gram matrix take (8 k - 6) m³ + 4 m² n operations, k steps on k of
    # them (2 m³ + 4 m² n) k. Equal at n = 1.5 m, where the many small products are
    # slower; measured, sharing pays from n = 2 m on. In half precision one step on a
    # Gram matrix is all that it stands.
    if n < 2 * m or eps > 1e-6 or steps < 4:
        yield from ([polynomial] for polynomial in polynomials)
        return
    risen = max(steps - 6, 2)
    for start in range(0, risen, 2):
        yield polynomials[start : min(start + 2, risen)]
    yield polynomials[risen:-1]
    # The last step by itself removes rounding errors of the ones before.
    yield polynomials[-1:]


def _inverse_norm(gram: jax.Array, square: jax.Array) -> jax.Array:
    """One over a bound of the spectral norm of x, zero for zero.

    From its Gram matrix R and R², whose norms are the second and fourth power of it;
    the Frobenius norm of R² is at most √m times too large.
    """
    largest_sum = jnp.max(jnp.sum(jnp.abs(gram), -1, keepdims=True), -2, keepdims=True)
    empty = largest_sum == 0  # where the slope of a root is infinite
    largest_sum, square = (jnp.where(empty, 1, x) for x in (largest_sum, square))
    frobenius = jnp.linalg.norm(square, axis=(-2, -1), keepdims=True)
    bound = jnp.minimum(jnp.sqrt(largest_sum), jnp.sqrt(jnp.sqrt(frobenius)))
    return jnp.where(empty, 0, 1 / bound)


def _composed(
    gram: jax.Array,
    polynomials: Sequence[Coefficients],
    square: jax.Array | None = None,
) -> jax.Array:
    """The factor of x that stands for the polynomials one after another."""
    composed = factor = _polynomial(gram, polynomials[0], square)
    for coefficients in polynomials[1:]:
        gram = product(product(gram, factor), factor)
        factor = _polynomial(gram, coefficients)
        composed = product(factor, composed)
    return composed


def _polynomial(
    gram: jax.Array, coefficients: Coefficients, square: jax.Array | None = None
) -> jax.Array:
    a, b, c = coefficients
    eye = identity_like(gram)
    if coefficients is LAST:
        # In powers of what is missing: a + b + c would cancel, with rounding errors ten
        # times those of the Gram matrix.
        missing = eye - gram
        rest = product(missing, c * missing)
        return product(gram, eye - (b + 2 * c) * missing + rest)
    square = product(gram, gram) if square is None else square
    return a * eye + b * gram + c * square


# Exact up to a condition number of 1e5 / √m for the smaller side m. More would bring
# up the noise that stands for null directions.
_PLAIN_STEPS = 12


def by_products(x: jax.Array) -> jax.Array:
    """The iteration in its plainest form: few operations to compile, slow to run."""
    lifting, _ = quintics(_PLAIN_STEPS - 1, float(jnp.finfo(x.dtype).eps))

    def step(x: jax.Array, coefficients: Any) -> tuple[jax.Array, jax.Array]:
        a, b, c = coefficients
        gram = gram_matrix(x)
        return a * x + product(b * gram + c * product(gram, gram), x), gram

    norm = jnp.linalg.norm(x, axis=(-2, -1), keepdims=True)
    columns = [jnp.asarray(c, x.dtype) for c in zip(*lifting, strict=True)]
    x, _ = lax.scan(
        lambda x, coefficients: (step(x, coefficients)[0], None),
        x / jnp.where(norm == 0, 1, norm).astype(x.dtype),
        columns,
    )
    x, gram = step(x, LAST)
    return product(gram, x)


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
