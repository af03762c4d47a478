"""Arguments refused where they are given, not where they would fail."""

import operator

import jax
import jax.numpy as jnp


class ArgumentError(ValueError, TypeError):
    """What every public function raises for an argument that it cannot use.

    The message names the argument, the value and what would do. It is a ``ValueError``
    and a ``TypeError`` at once, so that code that expects either catches it.
    """


def checked_matrix(x: jax.typing.ArrayLike) -> jax.Array:
    """X as an array, refused if it is no matrix of floating numbers."""
    x = jnp.asarray(x)
    if x.ndim < 2:
        raise ArgumentError(f"x must be an array (..., m, n), got {x.shape=}")
    if not jnp.issubdtype(x.dtype, jnp.inexact):
        raise ArgumentError(f"x must have a floating dtype, got {x.dtype}")
    return x


def checked_count(name: str, value: int) -> int:
    """An argument as an int, refused if it is traced, no integer or below one."""
    try:
        count = operator.index(value)
    except TypeError as error:
        raise ArgumentError(
            f"{name} must be a static integer (under optax.inject_hyperparams: "
            f"static_args={name!r}), got {value!r}"
        ) from error
    if count < 1:
        raise ArgumentError(f"{name} must be at least 1, got {count}")
    return count
