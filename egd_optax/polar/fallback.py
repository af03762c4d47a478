"""What stands in for a decomposition that did not converge."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax import lax

from egd_optax.polar.newton_schulz import by_products


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
            return jnp.where(failed[..., None, None], by_products(x), result)

        return lax.cond(jnp.any(failed), stand_in, lambda: result), failed

    return guarded
