"""Grokfast's window with a length that may be traced, for a search over it."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax import lax


class _State(NamedTuple):
    seen: jax.Array  # shape=(), dtype=int32
    queue: optax.Updates  # (at_most, …) of each leaf: the last gradients
    total: optax.Updates  # the sum of those in the window
    fresh: optax.Updates  # the same, begun anew with every window


def grokfast_of_any_window(
    window_size: jax.typing.ArrayLike, lamb: jax.typing.ArrayLike, *, at_most: int
) -> optax.GradientTransformation:
    """:func:`egd_optax.grokfast_ma` for windows of up to ``at_most`` gradients.

    There, the length of the queue is the window's. Here it is ``at_most``, at any cost
    in memory, and one compiled program serves all windows.
    """
    size = jnp.asarray(window_size, jnp.int32)

    def init_fn(params: optax.Params) -> _State:
        queue = jax.tree.map(lambda p: jnp.zeros((at_most, *p.shape), p.dtype), params)
        total, fresh = (jax.tree.map(jnp.zeros_like, params) for _ in range(2))
        return _State(jnp.zeros([], jnp.int32), queue, total, fresh)

    def update_fn(
        updates: optax.Updates, state: _State, params: optax.Params | None = None
    ) -> tuple[optax.Updates, _State]:
        del params
        leaving = (state.seen - size) % at_most
        entering = state.seen % at_most
        slot = state.seen % size

        def moved(total: jax.Array, queue: jax.Array, g: jax.Array) -> jax.Array:
            # Before anything has left the window, the queue has zeros there.
            return total + g - lax.dynamic_index_in_dim(queue, leaving, keepdims=False)

        total = jax.tree.map(moved, state.total, state.queue, updates)
        # Adding and subtracting for ever would gather rounding errors, which small
        # gradients would vanish in.
        fresh = jax.tree.map(
            lambda f, g: jnp.where(slot == 0, 0, f) + g, state.fresh, updates
        )
        total = jax.tree.map(
            lambda t, f: jnp.where(slot == size - 1, f, t), total, fresh
        )
        queue = jax.tree.map(
            lambda q, g: lax.dynamic_update_index_in_dim(q, g, entering, 0),
            state.queue,
            updates,
        )
        seen = state.seen + 1
        weight = jnp.where(seen >= size, lamb / size, 0)
        updates = jax.tree.map(lambda g, t: g + weight * t, updates, total)
        return updates, _State(seen, queue, total, fresh)

    return optax.GradientTransformation(init_fn, update_fn)
