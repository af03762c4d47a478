"""Column normalization: the cheap variant of egalitarian gradient descent."""

from typing import Any

import jax
import jax.numpy as jnp
import optax

from egd_optax.arguments import check_number
from egd_optax.leaves.checks import check_dimension_numbers
from egd_optax.leaves.layouts import WeightDimensionNumbers
from egd_optax.leaves.mapping import map_matrices
from egd_optax.meshes import brought_along
from egd_optax.polar.linear_algebra import at_least_float32, unit_columns


def normalize_by_column_norm(
    floor: jax.typing.ArrayLike = 0.01,
    *,
    weight_dimension_numbers: WeightDimensionNumbers = None,
) -> optax.GradientTransformationExtraArgs:
    r"""Scales the gradient of each output unit's incoming weights to unit L2 norm.

    For a kernel's gradient G ``(fan_in, fan_out)``, in Flax's layout,

    .. math:: G_{ij} \leftarrow G_{ij} \, / \, \max(\textstyle\sqrt{\sum_i |G_{ij}|^2},
        \text{floor}).

    Leaves that are not matrices pass through.

    Args:
      floor: least denominator, so that units whose gradient has vanished are not
        blown up; the published code uses 0.01. Zero normalizes every column and
        leaves zero columns at zero.
      weight_dimension_numbers: which axes of each leaf are input and output, as in
        :func:`egd_optax.scale_by_egd`.

    Returns:
      A stateless gradient transformation.

    Raises:
      ArgumentError: ``floor`` is no finite number of at least 0; dimension numbers that
        are none or, at ``update``, do not fit a leaf; a matrix of integers.

    Example:
      >>> import jax.numpy as jnp
      >>> from egd_optax import normalize_by_column_norm
      >>> tx = normalize_by_column_norm()
      >>> grads = {"kernel": jnp.array([[3.0, 0.0], [4.0, 0.001]])}
      >>> updates, _ = tx.update(grads, tx.init(grads))
      >>> print(updates["kernel"].round(3))
      [[0.6 0. ]
       [0.8 0.1]]

    Source: Saheb Pasand and Dohmatob, *Egalitarian Gradient Descent*, arXiv
    2510.04930, and its released code, which divides by column in this layout.
    """
    check_number("floor", floor, at_least=0)
    check_dimension_numbers(weight_dimension_numbers)

    def normalize(x: jax.Array) -> jax.Array:
        scaled, norm, scale = unit_columns(x.astype(at_least_float32(x.dtype)))
        least = jnp.maximum(norm, jnp.asarray(brought_along(floor), norm.dtype) / scale)
        least = jnp.where(least > 0, least, 1).astype(scaled.dtype)
        return (scaled / least).astype(x.dtype)

    def update_fn(
        updates: optax.Updates,
        state: optax.EmptyState,
        params: optax.Params | None = None,
        **extra_args: Any,
    ) -> tuple[optax.Updates, optax.EmptyState]:
        del params, extra_args
        return map_matrices(normalize, updates, weight_dimension_numbers), state

    return optax.GradientTransformationExtraArgs(optax.init_empty_state, update_fn)
