"""Whitening by one eigendecomposition of a Gram matrix in double precision."""

import jax
import jax.numpy as jnp
from jax import lax

from egd_optax.polar.linear_algebra import adjoint, gram_matrix, product

# Below this, relative to the largest, singular values of a float32 matrix are rounding
# errors; a Gram matrix in float64 has them from 1e-8 on.
SMALLEST_RCOND = 2.4e-7


def whiten(x: jax.Array, rcond: jax.Array) -> jax.Array:
    """Polar factor of wide float32 or complex64 matrices ``(..., m, n)``, m ≤ n.

    Forming X Xᴴ squares the condition number, and float64 has the digits for that: up
    to a condition number of 1e4 all bits of the result are right, at 1e6 all but a few.
    """
    dtype = x.dtype
    # JAX has float64 switched off by default; this is its switch for what is traced
    # here alone.
    with jax.enable_x64(True):
        x = x.astype(jnp.complex128 if jnp.iscomplexobj(x) else jnp.float64)
        rcond = jnp.maximum(rcond.astype(jnp.float64), SMALLEST_RCOND)
        vectors, values = lax.linalg.eigh(gram_matrix(x), symmetrize_input=False)
        keep = values > (rcond[..., None] ** 2) * values[..., -1:]
        root = jnp.where(keep, lax.rsqrt(jnp.where(keep, values, 1)), 0)
        inverse_root = product(vectors * root[..., None, :], adjoint(vectors))
        return product(inverse_root, x).astype(dtype)
