"""The few matrix operations that several modules need, in full precision."""

import functools

import jax
import jax.numpy as jnp
from jax import lax


def adjoint(x: jax.Array) -> jax.Array:
    """Xᴴ of each matrix."""
    return x.mT.conj()


# Accelerators round the factors of a float32 product to fewer bits unless told not to,
# and a Gram matrix with 10 bits says nothing about small directions.
product = functools.partial(jnp.matmul, precision=lax.Precision.HIGHEST)


def at_least_float32(dtype: jax.typing.DTypeLike) -> jax.typing.DTypeLike:
    """The dtype that a leaf is computed in."""
    # Not by promotion, which jax.numpy_dtype_promotion("strict") forbids.
    return jnp.float32 if jnp.finfo(dtype).bits < 32 else dtype


def unit_scale(x: jax.Array) -> jax.Array:
    """Each matrix over a power of two, entries below four, in at least float32."""
    x = x.astype(at_least_float32(x.dtype))
    largest = jnp.max(jnp.abs(x), axis=(-2, -1), keepdims=True)
    # A matrix of subnormal numbers is flushed to zero by the hardware: dividing by
    # its scale would give NaN.
    largest = jnp.where(largest < jnp.finfo(x.dtype).tiny, 1, largest)
    # A power of two rounds nothing. Neither it nor its inverse may be subnormal.
    mantissa = jnp.frexp(largest)[0]
    return x / (largest / jnp.where(largest > 1, 4 * mantissa, mantissa))


def gram_matrix(x: jax.Array) -> jax.Array:
    """X Xᴴ of each matrix."""
    return product(x, adjoint(x))


def real_diagonal(gram: jax.Array) -> jax.Array:
    """Squared norms of the rows of which ``gram`` is the Gram matrix."""
    return jnp.diagonal(gram, axis1=-2, axis2=-1).real


def column_norms(x: jax.Array) -> jax.Array:
    """L2 norm of each column ``(..., m, n)``, as an array ``(..., 1, n)``."""
    # Squares of numbers beyond 1e19 overflow in float32, those below 1e-19 vanish.
    scale = jnp.max(jnp.abs(x), axis=-2, keepdims=True)
    scale = jnp.where(scale > 0, scale, 1)
    return scale * jnp.linalg.norm(x / scale, axis=-2, keepdims=True)
