"""Polar factor U Vᴴ of a matrix X = U S Vᴴ: every singular value replaced by one."""

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax import lax

from egd_optax.arguments import (
    check_integer,
    check_key,
    check_number,
    checked_count,
    checked_matrix,
)
from egd_optax.polar import double_precision, iterated_eigh
from egd_optax.polar.batching import one_by_one
from egd_optax.polar.fallback import with_fallback
from egd_optax.polar.linear_algebra import adjoint, product, unit_scale


def polar_by_eigh(
    x: jax.Array, *, rcond: jax.typing.ArrayLike | None = None
) -> jax.Array:
    r"""Polar factor of each matrix, by eigendecomposition of its Gram matrix.

    For X = U S Vᴴ returns U Vᴴ = (X Xᴴ)^(-1/2) X, with the pseudo-inverse where X is
    rank-deficient: directions with σ ≤ rcond · σ_max are dropped.

    Forming X Xᴴ squares the condition number. A CPU therefore computes in float64
    inside, whatever JAX is set to: one eigendecomposition, and for float32 a result
    that is right to the last bit up to a condition number of 1e4, with an error of
    3e-5 at 1e6, where that of a float32 SVD is 4e-2.

    Accelerators, and float64 matrices anywhere, take several eigendecompositions: one
    alone knows the directions with σ well above √eps · σ_max only. Each pass therefore
    sets those to one and raises all others by one common factor, which leaves their
    singular vectors alone for the next pass to resolve. Passes stop when every
    direction is resolved: in float32 one suffices up to a condition number of 1e2, two
    up to 1e4, three up to 1e6. A pass after which at most a third or two thirds of the
    directions are left is followed by a pass over those alone. The error is below that
    of the SVD.

    An eigendecomposition that does not converge answers NaN; a finite matrix that this
    happens to is whitened by :func:`polar_by_newton_schulz` instead, within the same
    compiled program, and no other.

    Args:
      x: array of shape ``(..., m, n)``, floating or complex; leading axes are batch
        axes. Computed in at least float32, whatever its dtype.
      rcond: singular values up to ``rcond`` times the largest count as zero. None
        takes 4 eps of the dtype computed in (4.8e-7 in float32): that is above the
        rounding noise with which a rank-deficient matrix is multiplied by an orthogonal
        one, and below what a matrix with a condition number of 1e6 needs. numpy's
        ``pinv`` and ``matrix_rank`` scale it with max(m, n) as well, which would drop
        directions that are resolved here. Less than 2.4e-7 counts as that where
        float64 is inside.

    Returns:
      Array of the shape and dtype of ``x``. A zero matrix gives zero, a matrix with a
      NaN or an infinity gives NaN; scaling ``x`` by a positive number changes nothing.

    Raises:
      ArgumentError: ``x`` has fewer than two axes or is neither floating nor complex;
        ``rcond`` is no number in [0, 1).

    Example:
      >>> import jax.numpy as jnp
      >>> from egd_optax import polar_by_eigh
      >>> x = jnp.array([[3.0, 0.0, 0.0], [0.0, 0.0, -0.001]])
      >>> bool(jnp.allclose(polar_by_eigh(x), jnp.sign(x), atol=1e-6))
      True

    Source: Saheb Pasand and Dohmatob, *Egalitarian Gradient Descent*, arXiv
    2510.04930, for the use of the polar factor; how it is computed is this package's.
    """
    return polar_and_failures(x, rcond=rcond)[0]


def polar_and_failures(
    x: jax.Array, *, rcond: jax.typing.ArrayLike | None = None
) -> tuple[jax.Array, jax.Array]:
    """:func:`polar_by_eigh`, and for which matrices ``(...)`` the eigh failed."""
    return _compiled(_by_eigh, checked_matrix(x), _checked_rcond(rcond))


def polar_by_svd(
    x: jax.Array, *, rcond: jax.typing.ArrayLike | None = None
) -> jax.Array:
    r"""Polar factor of each matrix through its singular value decomposition.

    The slow, plain reference for :func:`polar_by_eigh`, with the same treatment of
    batch axes, dtypes, rank deficiency, zeros and NaN.

    Args:
      x: array of shape ``(..., m, n)``, floating or complex.
      rcond: singular values up to ``rcond`` times the largest count as zero. None
        takes 4 eps of the dtype computed in, at least float32. From 300 rows and
        columns on LAPACK's errors can exceed that: one in twenty rank-deficient
        matrices has a null direction come out as one.

    Returns:
      U Vᴴ for X = U S Vᴴ, of the shape and dtype of ``x``.

    Raises:
      ArgumentError: ``x`` has fewer than two axes or is neither floating nor complex;
        ``rcond`` is no number in [0, 1).

    Example:
      >>> import jax.numpy as jnp
      >>> from egd_optax import polar_by_svd
      >>> print(polar_by_svd(jnp.array([[0.0, 2.0], [0.0, 0.0]])))
      [[0. 1.]
       [0. 0.]]
    """
    return _compiled(_by_svd, checked_matrix(x), _checked_rcond(rcond))[0]


def polar_by_randomized_svd(
    x: jax.Array,
    rank: int,
    *,
    key: jax.Array,
    power_iterations: jax.typing.ArrayLike = 2,
) -> jax.Array:
    r"""Polar factor of the leading directions of each matrix, the others dropped.

    For X = U S Vᴴ approximates U_r V_rᴴ, the factor of the ``rank`` largest singular
    values, at a cost that grows with rank · m · n. The columns of X Ω for a Gaussian Ω
    with ``rank`` columns span nearly the leading directions, the nearer the more often
    X Xᴴ is applied:

    .. math:: Q = \operatorname{orth}((X X^H)^q X \Omega), \qquad
        \text{result} = Q \operatorname{polar}(Q^H X)

    with a QR decomposition after every product, as powers alone would leave nothing
    but the first direction. What lies in the span of Q is then resolved as exactly as
    by :func:`polar_by_eigh`. Result: ``min(rank, m, n)`` singular values of one, fewer
    where X has lower rank. They belong to the leading directions up to a share of
    others of order (σ_{r+1} / σ_r)^(2q + 1).

    Args:
      x: array of shape ``(..., m, n)``, floating or complex; leading axes are batch
        axes, and each matrix has a sketch of its own. Computed in at least float32.
      rank: number r of directions, a static integer. Matrices with no more than that
        are whitened entirely, by :func:`polar_by_eigh`.
      key: random key of the sketch: same key, same result.
      power_iterations: number q of times that X Xᴴ is applied.

    Returns:
      Array of the shape and dtype of ``x``. A zero matrix gives zero, a matrix with a
      NaN or an infinity gives NaN; scaling ``x`` by a positive number changes nothing.

    Raises:
      ArgumentError: ``x`` has fewer than two axes or is neither floating nor complex;
        ``rank`` is no static integer of at least 1, ``key`` no single key, or
        ``power_iterations`` no integer of at least 0.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> from egd_optax import polar_by_randomized_svd
      >>> x = jnp.diag(jnp.array([5.0, 2.0, 1e-3]))
      >>> print(abs(polar_by_randomized_svd(x, 2, key=jax.random.key(0)).round(3)))
      [[1. 0. 0.]
       [0. 1. 0.]
       [0. 0. 0.]]

    Source: Halko, Martinsson and Tropp, *Finding structure with randomness*, arXiv
    0909.4061; used for the gradient in Saheb Pasand and Dohmatob, *Egalitarian Gradient
    Descent*, arXiv 2510.04930, with two power iterations.
    """
    check_key("key", key)
    check_integer("power_iterations", power_iterations, at_least=0)
    return randomized_polar_and_failures(
        x, rank, key=key, power_iterations=power_iterations
    )[0]


def randomized_polar_and_failures(
    x: jax.Array, rank: int, *, key: jax.Array, power_iterations: jax.typing.ArrayLike
) -> tuple[jax.Array, jax.Array]:
    """:func:`polar_by_randomized_svd`, and for which matrices the eigh failed."""
    x, rank = checked_matrix(x), checked_count("rank", rank)
    if rank >= min(x.shape[-2:]):
        return polar_and_failures(x)
    return _polar_by_randomized_svd(x, rank, key, power_iterations)


def _checked_rcond(
    rcond: jax.typing.ArrayLike | None,
) -> jax.typing.ArrayLike | None:
    if rcond is not None:
        check_number("rcond", rcond, at_least=0, below=1)
    return rcond


def _of_stacks(
    fn: Callable[[jax.Array, jax.Array], tuple[jax.Array, jax.Array]],
    x: jax.Array,
    rcond: jax.typing.ArrayLike | None,
) -> tuple[jax.Array, jax.Array]:
    """Fn of stacks of wide matrices, scaled, and of the rcond of each."""
    batch = x.shape[:-2]
    if x.size == 0:
        return x, jnp.zeros(batch, bool)
    wide = x if x.shape[-2] <= x.shape[-1] else adjoint(x)
    scaled = unit_scale(wide)
    if rcond is None:
        rcond = 4 * float(jnp.finfo(scaled.dtype).eps)
    stack = scaled.reshape(-1, *scaled.shape[-2:])
    rcond = jnp.broadcast_to(jnp.asarray(rcond, stack.real.dtype), len(stack))
    result, failed = fn(stack, rcond)
    result = result.reshape(scaled.shape).astype(x.dtype)
    return result if wide is x else adjoint(result), failed.reshape(batch)


# Outside of jit, loops would be compiled anew at every call.
_compiled = jax.jit(_of_stacks, static_argnums=0)


def _whitened(x: jax.Array, rcond: jax.Array) -> jax.Array:
    if jnp.finfo(x.dtype).bits > 32:
        return iterated_eigh.whiten(x, rcond)
    # A CPU has float64 at half the speed of float32, which beats several passes;
    # accelerators have it slowly or not at all.
    return lax.platform_dependent(
        x, rcond, cpu=double_precision.whiten, default=iterated_eigh.whiten
    )


def _without_small_directions(x: jax.Array, rcond: jax.Array) -> jax.Array:
    u, s, vh = jnp.linalg.svd(x, full_matrices=False)
    keep = s > rcond * s[0]
    # NaN is kept: a comparison would turn it into a dropped direction.
    return product(u * jnp.where(jnp.isnan(s), s, keep), vh)


_by_eigh = one_by_one(with_fallback(_whitened), with_fallback(iterated_eigh.whiten))
_by_svd = one_by_one(with_fallback(_without_small_directions))


@functools.partial(jax.jit, static_argnames="rank")
def _polar_by_randomized_svd(
    x: jax.Array, rank: int, key: jax.Array, power_iterations: jax.typing.ArrayLike
) -> tuple[jax.Array, jax.Array]:
    sketch_shape = (*x.shape[:-2], max(x.shape[-2:]), rank)

    def by_sketch(stack: jax.Array, _: jax.Array) -> tuple[jax.Array, jax.Array]:
        sketch = jax.random.normal(key, sketch_shape, stack.dtype)
        iterations = jnp.broadcast_to(power_iterations, len(stack))
        return _by_sketch(stack, sketch.reshape(-1, *sketch.shape[-2:]), iterations)

    return _of_stacks(by_sketch, x, None)


def _leading_directions(
    x: jax.Array, sketch: jax.Array, power_iterations: jax.Array
) -> tuple[jax.Array, jax.Array]:
    def orthonormal(y: jax.Array) -> jax.Array:
        return jnp.linalg.qr(y)[0]

    def power_iteration(_: jax.Array, q: jax.Array) -> jax.Array:
        return orthonormal(product(x, orthonormal(product(adjoint(x), q))))

    q = orthonormal(product(x, sketch))
    q = lax.fori_loop(0, power_iterations, power_iteration, q)
    factor, failed = polar_and_failures(product(adjoint(q), x))
    return product(q, factor), failed


_by_sketch = one_by_one(_leading_directions)
