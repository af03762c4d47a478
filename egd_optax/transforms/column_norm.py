"""Column normalization: the cheap variant of egalitarian gradient descent."""

from typing import Any

import jax
import jax.numpy as jnp
import optax

from egd_optax.arguments import check_number, checked_matrix
from egd_optax.leaves.checks import check_dimension_numbers
from egd_optax.leaves.layouts import WeightDimensionNumbers
from egd_optax.leaves.mapping import map_matrices
from egd_optax.meshes import brought_along, keep_sharding
from egd_optax.polar.linear_algebra import at_least_float32, scaled_columns


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
        return _divided(x, brought_along(floor))

    def update_fn(
        updates: optax.Updates,
        state: optax.EmptyState,
        params: optax.Params | None = None,
        **extra_args: Any,
    ) -> tuple[optax.Updates, optax.EmptyState]:
        del params, extra_args
        return map_matrices(normalize, updates, weight_dimension_numbers), state

    return optax.GradientTransformationExtraArgs(optax.init_empty_state, update_fn)


def unit_columns(x: jax.Array) -> jax.Array:
    r"""Each column of a matrix over its L2 norm: a ``polar_fn`` without decomposition.

    .. math:: D_{ij} = G_{ij} \, / \, \textstyle\sqrt{\sum_k |G_{kj}|^2}

    Handed to :func:`egd_optax.egd` it takes the place of the polar factor: all output
    units learn at the same speed, not all directions. A step costs about what one of
    AdamW does. Where that is enough, and where it is not: ``docs/which_method.md``.

    Args:
      x: array of shape ``(..., fan_in, fan_out)``, floating or complex.

    Returns:
      An array of the shape and dtype of ``x``, computed in at least float32. Columns of
      zeros stay zero; a column with NaN or infinity becomes NaN.

    Raises:
      ArgumentError: ``x`` has fewer than two axes or is neither floating nor complex.

    Example:
      >>> import jax.numpy as jnp
      >>> from egd_optax import egd, unit_columns
      >>> print(unit_columns(jnp.array([[3.0, 0.0], [4.0, 0.0]])).round(3))
      [[0.6 0. ]
       [0.8 0. ]]
      >>> tx = egd(0.02, momentum=0.6, polar_fn=unit_columns)

    Source: the direction of :func:`normalize_by_column_norm`; momentum before it and
    decay after it, as in ``egd``, are this package's.
    """
    return keep_sharding(lambda x: _divided(x, 0.0), checked_matrix(x))


def _divided(x: jax.Array, floor: jax.typing.ArrayLike) -> jax.Array:
    """Columns over their norms, or over the floor where that is more."""
    scaled, norm, scale = scaled_columns(x.astype(at_least_float32(x.dtype)))
    least = jnp.maximum(norm, jnp.asarray(floor, norm.dtype) / scale)
    least = jnp.where(least > 0, least, 1).astype(scaled.dtype)
    return (scaled / least).astype(x.dtype)
