"""Arithmetic and states in at least float32, updates in the dtype that came in."""

from typing import Any

import jax
import jax.numpy as jnp
import optax

from egd_optax.leaves.checks import check_floating
from egd_optax.polar.linear_algebra import at_least_float32, known_dtype


def in_at_least_float32(
    inner: optax.GradientTransformation,
) -> optax.GradientTransformationExtraArgs:
    """``inner`` for leaves of any dtype, as if those below float32 had float32.

    bfloat16 has 8 bits: an average that each step moves by less than 1/256 of itself
    does not move at all. And whatever dtypes the numbers that ``inner`` holds have,
    the state keeps its own, and updates have that of gradient and parameter.
    """
    inner = optax.with_extra_args_support(inner)

    def init_fn(params: optax.Params) -> optax.OptState:
        check_floating("parameter", params)
        return inner.init(jax.tree.map(_widened, params))

    def update_fn(
        updates: optax.Updates,
        state: optax.OptState,
        params: optax.Params,
        **extra_args: Any,
    ) -> tuple[optax.Updates, optax.OptState]:
        wide, wide_params = jax.tree.map(_widened, (updates, params))
        new, new_state = inner.update(wide, state, wide_params, **extra_args)

        def as_given(u: jax.Array, g: jax.Array, p: jax.Array) -> jax.Array:
            return u.astype(known_dtype(jnp.promote_types(g.dtype, p.dtype)))

        return (
            jax.tree.map(as_given, new, updates, params),
            optax.tree.cast_like(new_state, state),
        )

    return optax.GradientTransformationExtraArgs(init_fn, update_fn)


def _widened(x: jax.Array) -> jax.Array:
    return jnp.asarray(x, at_least_float32(x.dtype))
