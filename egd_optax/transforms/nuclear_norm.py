"""A penalty on the nuclear norm of each matrix."""

from collections.abc import Callable

import jax
import optax

from egd_optax.arguments import checked_whitening
from egd_optax.leaves.checks import (
    Mask,
)
from egd_optax.leaves.layouts import WeightDimensionNumbers
from egd_optax.polar.platform import polar_factor
from egd_optax.transforms.penalties import add_to_matrices


def add_nuclear_norm_penalty(
    strength: optax.ScalarOrSchedule,
    *,
    polar_fn: Callable[[jax.Array], jax.Array] | None = None,
    weight_dimension_numbers: WeightDimensionNumbers = None,
    mask: Mask | None = None,
) -> optax.GradientTransformationExtraArgs:
    r"""Adds the gradient of the nuclear norm (sum of singular values) of each matrix.

    .. math:: g \leftarrow g + \text{strength} \cdot U V^\top
        \in g + \partial_W \, \text{strength} \, \|W\|_*, \qquad W = U S V^\top

    The subgradient is the polar factor of W, so no singular value decomposition is
    differentiated, nor computed. Directions in which W vanishes get none. Of a complex
    W it is U Vᴴ, the conjugate of what ``jax.grad`` would give. Leaves that are not
    matrices pass through.

    Args:
      strength: factor of the penalty, a number or a schedule.
      polar_fn: polar factor of arrays ``(..., m, n)``; None takes
        :func:`egd_optax.polar_factor`.
      weight_dimension_numbers: which axes of each leaf are input and output, as in
        :func:`egd_optax.scale_by_egd`.
      mask: tree of booleans (or a prefix, or a function of the parameters that gives
        one): where the penalty applies.

    Returns:
      A gradient transformation whose ``update`` needs ``params``.

    Raises:
      ArgumentError: as :func:`add_frobenius_penalty`; ``polar_fn`` is no function that
        keeps shapes, or dimension numbers are none or do not fit a leaf.

    Example:
      >>> import jax.numpy as jnp
      >>> from egd_optax import add_nuclear_norm_penalty
      >>> tx = add_nuclear_norm_penalty(0.5)
      >>> params = {"kernel": jnp.array([[0.0, 3.0], [0.0, 0.0]])}
      >>> zeros = {"kernel": jnp.zeros((2, 2))}
      >>> updates, _ = tx.update(zeros, tx.init(params), params)
      >>> print(updates["kernel"])
      [[0.  0.5]
       [0.  0. ]]

    Source: *A Simple Method for Accelerating Grokking* (LessWrong) has the penalty,
    through an SVD; Watson, *Characterization of the subdifferential of some matrix
    norms* (1992), has its subgradient.
    """
    whiten = polar_factor if polar_fn is None else checked_whitening(polar_fn)
    return add_to_matrices(whiten, weight_dimension_numbers, strength, mask)
