"""What stands in for a decomposition that did not converge."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from egd_optax.polar import polar_express
from egd_optax.polar.linear_algebra import gram_matrix, product

# Exact up to a condition number of 1e5 / √m for the smaller side m. More would bring
# up the noise that stands for null directions.
_STEPS = 12


def with_fallback(
    whiten: Callable[[jax.Array, jax.Array], jax.Array],
) -> Callable[[jax.Array, jax.Array], tuple[jax.Array, jax.Array]]:
    """From a whitening one that also tells which matrices it failed for.

    LAPACK, cuSOLVER and XLA answer NaN, without an error, where an iteration of theirs
    does not converge. Such a matrix, finite itself, is whitened by matrix products.

    ``whiten`` takes wide matrices ``(..., m, n)``, m ≤ n, with entries below four and
    an rcond each. The flags ``(...)`` are False for matrices that hold a NaN or an
    infinity: theirs stays visible.
    """

    def finite(x: jax.Array) -> jax.Array:
        return jnp.all(jnp.isfinite(x), axis=(-2, -1))

    def guarded(x: jax.Array, rcond: jax.Array) -> tuple[jax.Array, jax.Array]:
        result = whiten(x, rcond)
        failed = finite(x) & ~finite(result)

        def stand_in() -> jax.Array:
            return jnp.where(failed[..., None, None], _by_products(x), result)

        return lax.cond(jnp.any(failed), stand_in, lambda: result), failed

    return guarded


def _by_products(x: jax.Array) -> jax.Array:
    """The Newton–Schulz iteration in its plainest form.

    It is compiled into every program and hardly ever runs: what counts is how few
    different operations it has. :func:`egd_optax.polar_by_newton_schulz` is faster.
    """
    quintics, _ = polar_express.quintics(_STEPS - 1, float(jnp.finfo(x.dtype).eps))

    def step(x: jax.Array, coefficients: Any) -> tuple[jax.Array, jax.Array]:
        a, b, c = coefficients
        gram = gram_matrix(x)
        return a * x + product(b * gram + c * product(gram, gram), x), gram

    norm = jnp.linalg.norm(x, axis=(-2, -1), keepdims=True)
    columns = [jnp.asarray(c, x.dtype) for c in zip(*quintics, strict=True)]
    x, _ = lax.scan(
        lambda x, coefficients: (step(x, coefficients)[0], None),
        x / jnp.where(norm == 0, 1, norm),
        columns,
    )
    x, gram = step(x, polar_express.LAST)
    return product(gram, x)
