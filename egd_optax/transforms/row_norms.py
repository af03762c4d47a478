"""A bound on the norm of each output unit's incoming weights."""

from typing import Any

import jax
import jax.numpy as jnp
import optax

from egd_optax.arguments import check_number
from egd_optax.leaves.checks import check_dimension_numbers, checked_params
from egd_optax.leaves.layouts import WeightDimensionNumbers
from egd_optax.leaves.mapping import map_matrices
from egd_optax.meshes import brought_along
from egd_optax.polar.linear_algebra import (
    at_least_float32,
    known_dtype,
    scaled_columns,
)


def clip_weight_row_norms(
    max_norm: jax.typing.ArrayLike,
    *,
    weight_dimension_numbers: WeightDimensionNumbers = None,
) -> optax.GradientTransformationExtraArgs:
    r"""Clips the L2 norm of each output unit's incoming weights after the update.

    .. math:: u_j \leftarrow c_j (w_j + u_j) - w_j, \qquad
        c_j = \min(1, \text{max\_norm} / \|w_j + u_j\|_2)

    for each output unit j. Its weights w_j are a column of a Flax kernel
    ``(fan_in, fan_out)``, a row where kernels are transposed, hence the name. Weights
    within the bound take the update as it came. Complex weights keep their phase.
    Leaves that are not matrices pass.

    Put it **last** in the chain, after ``scale_by_learning_rate``: it must see the
    update that the weights get.

    Args:
      max_norm: largest norm of an output unit's incoming weights, positive.
      weight_dimension_numbers: which axes of each leaf are input and output, as in
        :func:`egd_optax.scale_by_egd`.

    Returns:
      A stateless gradient transformation whose ``update`` needs ``params``. Updates
      keep shape and dtype, so that the bound holds to the rounding of that dtype.

    Raises:
      ArgumentError: ``max_norm`` is no number above 0, or dimension numbers are none;
        at ``update``, if they do not fit a leaf, ``params`` is missing or does not fit
        the gradients, or a leaf is not floating.

    Example:
      >>> import jax.numpy as jnp, optax
      >>> from egd_optax import clip_weight_row_norms
      >>> tx = optax.chain(optax.sgd(1.0), clip_weight_row_norms(2.0))
      >>> params = {"kernel": jnp.array([[3.0, 1.0], [3.0, 0.0]])}
      >>> grads = {"kernel": jnp.array([[0.0, 0.5], [-1.0, 0.0]])}
      >>> updates, _ = tx.update(grads, tx.init(params), params)
      >>> print(optax.apply_updates(params, updates)["kernel"].round(3))
      [[1.2 0.5]
       [1.6 0. ]]

    Source: the *Clip to Grok* report and code (github.com/NiftyliuS/cliptogrok), with
    a largest norm of 2 on the decoder's matrices, embeddings left out.
    """
    # Infinity: no bound.
    check_number("max_norm", max_norm, above=0, finite=False)
    check_dimension_numbers(weight_dimension_numbers)

    def factors(halves: jax.Array) -> jax.Array:
        _, norm, scale = scaled_columns(halves)
        bound = jnp.asarray(brought_along(max_norm), norm.dtype) / 2 / scale
        factor = jnp.where(norm <= bound, 1, bound / norm)
        return jnp.broadcast_to(factor, halves.shape).astype(halves.dtype)

    def add_halves(w: jax.Array, u: jax.Array) -> jax.Array:
        # The sum itself may be more than the dtype holds.
        wide = w.astype(at_least_float32(w.dtype))
        return wide / 2 + u.astype(wide.dtype) / 2

    def clip(u: jax.Array, w: jax.Array, c: jax.Array) -> jax.Array:
        # (w + u) c - w would round away what a small update changes.
        return (c * u.astype(c.dtype) - (1 - c) * w.astype(c.dtype)).astype(
            known_dtype(u.dtype)
        )

    def update_fn(
        updates: optax.Updates,
        state: optax.EmptyState,
        params: optax.Params | None = None,
        **extra_args: Any,
    ) -> tuple[optax.Updates, optax.EmptyState]:
        del extra_args
        params = checked_params(params, "clip_weight_row_norms", updates)
        moved = jax.tree.map(add_halves, params, updates)
        c = map_matrices(
            factors, moved, weight_dimension_numbers, otherwise=jnp.ones_like
        )
        return jax.tree.map(clip, updates, params, c), state

    return optax.GradientTransformationExtraArgs(optax.init_empty_state, update_fn)
