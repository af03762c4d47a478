"""Polar factor of the leading directions alone, by random sketches."""

import functools

import jax
import jax.numpy as jnp
from jax import lax

from egd_optax.arguments import (
    check_integer,
    check_key,
    checked_count,
    checked_matrix,
)
from egd_optax.meshes import brought_along, keep_sharding
from egd_optax.polar.derivative import with_derivative
from egd_optax.polar.linear_algebra import adjoint, product
from egd_optax.polar.platform import factor_and_failures
from egd_optax.polar.stacks import of_traced_stacks, one_at_a_time_on_cpu


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
    by :func:`polar_factor`. Result: ``min(rank, m, n)`` singular values of one, fewer
    where X has lower rank. They belong to the leading directions up to a share of
    others of order (σ_{r+1} / σ_r)^(2q + 1).

    The derivative is that of U_r V_rᴴ, to which this tends with more iterations, and
    takes an SVD: as far from that of a few iterations as σ_{r+1} is near σ_r.

    Args:
      x: array of shape ``(..., m, n)``, floating or complex; leading axes are batch
        axes, and each matrix has a sketch of its own. Computed in at least float32.
      rank: number r of directions, a static integer. Matrices with no more than that
        are whitened entirely, by :func:`polar_factor`.
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

    def whiten(x: jax.Array) -> jax.Array:
        return randomized_polar_and_failures(
            x, rank, key=key, power_iterations=power_iterations
        )[0]

    return keep_sharding(whiten, checked_matrix(x))


def randomized_polar_and_failures(
    x: jax.Array, rank: int, *, key: jax.Array, power_iterations: jax.typing.ArrayLike
) -> tuple[jax.Array, jax.Array]:
    """:func:`polar_by_randomized_svd`, and for which matrices the eigh failed."""
    x, rank = checked_matrix(x), checked_count("rank", rank)
    if rank >= min(x.shape[-2:]):
        return factor_and_failures(x)
    key, power_iterations = brought_along(key), brought_along(power_iterations)
    return _polar_by_randomized_svd(x, rank, key, power_iterations)


@functools.partial(jax.jit, static_argnames="rank")
def _polar_by_randomized_svd(
    x: jax.Array, rank: int, key: jax.Array, power_iterations: jax.typing.ArrayLike
) -> tuple[jax.Array, jax.Array]:
    sketch_shape = (*x.shape[:-2], max(x.shape[-2:]), rank)

    def by_sketch(stack: jax.Array, _: jax.Array) -> tuple[jax.Array, jax.Array]:
        sketch = jax.random.normal(key, sketch_shape, stack.dtype)
        iterations = jnp.broadcast_to(power_iterations, len(stack))
        return _by_sketch(stack, sketch.reshape(-1, *sketch.shape[-2:]), iterations)

    return of_traced_stacks(by_sketch, x, None)


def _leading_directions(
    x: jax.Array, sketch: jax.Array, power_iterations: jax.Array
) -> tuple[jax.Array, jax.Array]:
    def orthonormal(y: jax.Array) -> jax.Array:
        return jnp.linalg.qr(y)[0]

    def power_iteration(_: jax.Array, q: jax.Array) -> jax.Array:
        return orthonormal(product(x, orthonormal(product(adjoint(x), q))))

    q = orthonormal(product(x, sketch))
    q = lax.fori_loop(0, power_iterations, power_iteration, q)
    factor, failed = factor_and_failures(product(adjoint(q), x))
    return product(q, factor), failed


_by_sketch = with_derivative(one_at_a_time_on_cpu(_leading_directions))
