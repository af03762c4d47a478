"""What every penalty on the weights shares: its gradient is added to the updates."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from egd_optax.arguments import checked_schedule
from egd_optax.leaves.checks import (
    Mask,
    check_dimension_numbers,
    checked_mask,
    checked_params,
    where_given,
)
from egd_optax.leaves.layouts import (
    WeightDimensionNumbers,
    told_by_the_whole_tree,
)
from egd_optax.leaves.mapping import map_matrices
from egd_optax.polar.linear_algebra import at_least_float32, known_dtype


class WeightPenaltyState(NamedTuple):
    """State of a weight penalty whose strength is a schedule."""

    count: jax.Array  # type: ignore[assignment]  # shape=(), dtype=int32


def add_to_matrices(
    direction: Callable[[jax.Array], jax.Array],
    numbers: WeightDimensionNumbers,
    strength: optax.ScalarOrSchedule,
    mask: Mask | None,
) -> optax.GradientTransformationExtraArgs:
    """Adds ``strength * direction(W)`` to the updates of each matrix W."""
    check_dimension_numbers(numbers)
    of_all, of_part = told_by_the_whole_tree(numbers)

    def directions(params: optax.Params) -> optax.Updates:
        given = numbers if mask is None else of_part
        return map_matrices(direction, params, given, otherwise=jnp.zeros_like)

    ask = None if of_all is of_part else of_all
    return add_to_gradient(directions, strength, mask, before_mask=ask)


def add_to_gradient(
    direction: Callable[[optax.Params], optax.Updates],
    strength: optax.ScalarOrSchedule,
    mask: Mask | None,
    factor: int = 1,
    before_mask: Callable[[optax.Params], Any] | None = None,
) -> optax.GradientTransformationExtraArgs:
    """Adds ``factor * strength * direction(params)`` to the updates.

    ``before_mask`` sees all parameters, where ``mask`` leaves a part to ``direction``.
    """
    strength = checked_schedule("strength", strength)

    def init_fn(params: optax.Params) -> optax.OptState:
        del params
        if callable(strength):
            return WeightPenaltyState(count=jnp.zeros([], jnp.int32))
        return optax.EmptyState()

    def update_fn(
        updates: optax.Updates,
        state: optax.OptState,
        params: optax.Params | None = None,
        **extra_args: Any,
    ) -> tuple[optax.Updates, optax.OptState]:
        del extra_args
        params = checked_params(params, "a weight penalty", updates)
        value = strength
        if callable(strength):
            value = strength(state.count)
            state = WeightPenaltyState(optax.safe_increment(state.count))

        def add(g: jax.Array, d: jax.Array) -> jax.Array:
            dtype = at_least_float32(g.dtype)
            # Twice the weights may be more than the dtype holds.
            added = jnp.asarray(factor * value, dtype) * d.astype(dtype)
            return (g.astype(dtype) + added).astype(known_dtype(g.dtype))

        return jax.tree.map(add, updates, direction(params)), state

    tx = optax.GradientTransformationExtraArgs(init_fn, update_fn)
    if mask is None:
        return tx
    masked = optax.masked(tx, checked_mask("mask", mask))

    def update_masked_fn(
        updates: optax.Updates,
        state: optax.OptState,
        params: optax.Params | None = None,
        **extra_args: Any,
    ) -> tuple[optax.Updates, optax.OptState]:
        params = where_given(updates, params)
        if before_mask is not None:
            before_mask(params)
        return masked.update(updates, state, params, **extra_args)

    return optax.GradientTransformationExtraArgs(masked.init, update_masked_fn)
