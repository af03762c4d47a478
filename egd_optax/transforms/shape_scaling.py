"""Steps in proportion to the shape of a matrix, so that learning rates carry over."""

import math
from typing import Any

import jax
import jax.numpy as jnp
import optax

from egd_optax.leaves.layouts import MatrixLayout, WeightDimensionNumbers
from egd_optax.leaves.mapping import map_leaves


def shape_factor(
    layout: MatrixLayout,
    consistent_rms: jax.typing.ArrayLike | None,
    width_scaling: bool,
) -> jax.typing.ArrayLike:
    """√max(fan_in, fan_out) · consistent_rms, or √max(1, fan_out / fan_in), or 1."""
    _, fan_in, fan_out = layout.shape
    if consistent_rms is not None:
        return math.sqrt(max(fan_in, fan_out)) * consistent_rms
    # An axis may be empty.
    return math.sqrt(max(1, fan_out / max(1, fan_in))) if width_scaling else 1.0


def scale_by_shape(
    consistent_rms: jax.typing.ArrayLike | None,
    weight_dimension_numbers: WeightDimensionNumbers = None,
) -> optax.GradientTransformation:
    """√max(fan_in, fan_out) · consistent_rms; None: √max(1, fan_out / fan_in).

    The factors of ``optax.contrib.muon``. Each matrix of a fused kernel has a shape of
    its own; leaves that are no matrices pass.
    """

    def scaled(layout: MatrixLayout | None, leaf: jax.Array) -> jax.Array:
        if layout is None:
            return leaf
        factor = shape_factor(layout, consistent_rms, width_scaling=True)
        return leaf * jnp.asarray(factor, leaf.dtype)

    def update_fn(
        updates: optax.Updates,
        state: optax.EmptyState,
        params: optax.Params | None = None,
        **extra_args: Any,
    ) -> tuple[optax.Updates, optax.EmptyState]:
        del params, extra_args
        return map_leaves(scaled, weight_dimension_numbers, updates), state

    return optax.GradientTransformationExtraArgs(optax.init_empty_state, update_fn)
