"""The few matrix operations that several modules need, in full precision."""

import functools
from collections.abc import Callable

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
    return jnp.float32 if jnp.finfo(dtype).bits < 32 else known_dtype(dtype)


def known_dtype(dtype: jax.typing.DTypeLike) -> jax.typing.DTypeLike:
    """The dtype that JAX has for that of a NumPy array: float32 for float64 usually."""
    return jax.dtypes.canonicalize_dtype(dtype)


def as_wide(x: jax.Array) -> tuple[jax.Array, Callable[[jax.Array], jax.Array]]:
    """Each matrix with its smaller side first, and the way back to the dtype of x."""
    if x.shape[-2] <= x.shape[-1]:
        return x, lambda result: result.astype(x.dtype)
    return adjoint(x), lambda result: adjoint(result.astype(x.dtype))


def unit_scale(x: jax.Array) -> jax.Array:
    """Each matrix over a power of two, entries below four, in at least float32."""
    x = x.astype(at_least_float32(x.dtype))
    return x / power_of_two(largest_magnitude(x, axis=(-2, -1))).astype(x.dtype)


def power_of_two(number: jax.Array) -> jax.Array:
    """A power of two over which a number is at least 1/2 and below four.

    To divide by it rounds nothing, while squares beyond 1e19 overflow in float32 and
    those below 1e-19 vanish.
    """
    # Constant but for jumps, which are no business of a derivative.
    number = lax.stop_gradient(number)
    # Subnormal numbers are flushed to zero by the hardware: to divide by their scale
    # would give NaN. XLA divides by multiplying: the inverse may not be one either.
    number = jnp.where(number < jnp.finfo(number.dtype).tiny, 1, number)
    exponent = jnp.frexp(number)[1]
    exponent = jnp.where(number > 1, exponent - 2, exponent)
    # Not a quotient of the number: of x / (number / mantissa) XLA may make
    # x * mantissa / number, which overflows.
    power = jnp.ldexp(jnp.ones_like(number), exponent)
    return jnp.where(jnp.isnan(number), number, power)


def largest_magnitude(
    x: jax.Array, axis: int | tuple[int, ...] | None = None
) -> jax.Array:
    """The largest entry, of real and imaginary parts; zero where there is none.

    NaN where an entry is none or infinite.
    """
    # The absolute value of a complex number can overflow.
    parts = (x.real, x.imag) if jnp.iscomplexobj(x) else (x,)
    largest = functools.reduce(
        jnp.maximum,
        (
            # A maximum over NaN is one of the other entries on a CPU
            # (openxla/xla#21461); over infinity it is infinity.
            jnp.max(
                jnp.where(jnp.isnan(part), jnp.inf, jnp.abs(part)),
                axis=axis,
                keepdims=True,
                initial=0,
            )
            for part in parts
        ),
    )
    return jnp.where(jnp.isinf(largest), jnp.nan, largest)


def gram_matrix(x: jax.Array) -> jax.Array:
    """X Xᴴ of each matrix."""
    return product(x, adjoint(x))


def identity_like(gram: jax.Array) -> jax.Array:
    """The identity to each of a stack of matrices, in as many axes as the stack has."""
    eye = jnp.eye(gram.shape[-1], dtype=gram.dtype)
    return jnp.expand_dims(eye, range(gram.ndim - 2))


def real_diagonal(gram: jax.Array) -> jax.Array:
    """Squared norms of the rows of which ``gram`` is the Gram matrix."""
    return jnp.diagonal(gram, axis1=-2, axis2=-1).real


def scaled_columns(x: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Each column ``(..., m, n)`` over a power of two, its L2 norm then, the power.

    The norm itself may be more than the dtype holds.
    """
    largest = largest_magnitude(x, axis=-2)
    scale = power_of_two(largest)
    scaled = x / scale.astype(x.dtype)
    # The slope of a root at zero is infinite.
    empty = largest == 0
    norm = jnp.linalg.norm(jnp.where(empty, 1, scaled), axis=-2, keepdims=True)
    return scaled, jnp.where(empty, 0, norm), scale
