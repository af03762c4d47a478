"""Directions of one optimizer that is the same in all else: functions of a matrix.

Each maps arrays ``(..., m, n)`` to arrays of that shape, and is a ``polar_fn`` of
:func:`egd_optax.egd`.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import optax.contrib
from jax import lax

import egd_optax

Direction = Callable[[jax.Array], jax.Array]


def plain(x: jax.Array) -> jax.Array:
    """The gradient as it is: descent with momentum."""
    return x


def sign(x: jax.Array) -> jax.Array:
    """The sign of each entry."""
    return jnp.sign(x)


def frobenius(x: jax.Array) -> jax.Array:
    """The whole matrix to unit norm."""
    norm = jnp.sqrt(jnp.sum(x**2, axis=(-2, -1), keepdims=True))
    return x / jnp.maximum(norm, jnp.finfo(x.dtype).tiny)


columns = egd_optax.unit_columns


def rows(x: jax.Array) -> jax.Array:
    """The gradient of what each input gives to unit norm."""
    return egd_optax.unit_columns(x.mT).mT


def five_steps(x: jax.Array) -> jax.Array:
    """Muon's five rough Newton–Schulz steps: singular values between 0.7 and 1.2."""
    rough = optax.contrib.scale_by_muon(
        beta=0.0,
        nesterov=False,
        weight_dimension_numbers=optax.contrib.MuonDimensionNumbers(-2, -1),
    )
    direction, _ = rough.update(x, rough.init(x))
    return direction


# What a search chooses the rank among: each is a branch, since it fixes shapes.
RANKS = (4, 16, 48, 128)


def randomized(rank: jax.typing.ArrayLike) -> Direction:
    """The leading directions alone, as many as one of ``RANKS`` says, by a sketch."""

    def of_rank(rank: int) -> Callable[[jax.Array, jax.Array], jax.Array]:
        return lambda x, key: egd_optax.polar_by_randomized_svd(x, rank, key=key)

    def direction(x: jax.Array) -> jax.Array:
        # A fresh sketch at every step, from what is new at every step.
        bits = lax.bitcast_convert_type(jnp.sum(x, dtype=jnp.float32), jnp.uint32)
        key = jax.random.fold_in(jax.random.key(0), bits)
        place = jnp.searchsorted(jnp.array(RANKS), rank)
        return lax.switch(place, list(map(of_rank, RANKS)), x, key)

    return direction
