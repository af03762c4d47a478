"""Singular values of the matrices of a tree, for logging."""

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
import optax

from egd_optax.leaves.checks import check_dimension_numbers
from egd_optax.leaves.layouts import (
    MatrixLayout,
    WeightDimensionNumbers,
    matrix_layouts,
    to_matrices,
)
from egd_optax.meshes import same_everywhere
from egd_optax.polar.derivative import singular_values_of
from egd_optax.polar.linear_algebra import (
    at_least_float32,
    largest_magnitude,
    power_of_two,
)


def singular_values(
    tree: optax.Params, *, weight_dimension_numbers: WeightDimensionNumbers = None
) -> optax.Params:
    r"""Singular values of every matrix of a tree, in descending order.

    All three functions here can be differentiated. A singular value of at most 4 eps
    σ_max, where it has a kink, has the derivative zero; second derivatives are NaN
    where singular values are equal or zero.

    Args:
      tree: arrays, such as gradients or parameters.
      weight_dimension_numbers: which axes of each leaf are input and output, as in
        :func:`egd_optax.scale_by_egd`.

    Returns:
      The tree with each matrix ``(fan_in, fan_out)`` replaced by its min(fan_in,
      fan_out) singular values, in at least float32, a batch of matrices by an array
      ``(batch, min(fan_in, fan_out))``, and each other leaf by None, so that
      ``jax.tree.leaves`` has one entry a matrix.

    Raises:
      ArgumentError: dimension numbers are none or do not fit a leaf; a leaf is no array
        or a matrix of integers.

    Example:
      >>> import jax.numpy as jnp
      >>> from egd_optax import singular_values
      >>> params = {"kernel": jnp.diag(jnp.array([1.0, 3.0])), "bias": jnp.ones(2)}
      >>> print(singular_values(params))
      {'bias': None, 'kernel': Array([3., 1.], dtype=float32)}
    """
    return _per_matrix(lambda s: s, tree, weight_dimension_numbers)


def condition_numbers(
    tree: optax.Params, *, weight_dimension_numbers: WeightDimensionNumbers = None
) -> optax.Params:
    r"""Condition number σ_max / σ_min of every matrix; infinite where σ_min is zero.

    A matrix without entries has 0.

    Arguments, errors and the shape of the tree are those of :func:`singular_values`,
    with a scalar (or one number a matrix of a batch) for each matrix.

    Example:
      >>> import jax.numpy as jnp
      >>> from egd_optax import condition_numbers
      >>> print(condition_numbers({"kernel": jnp.diag(jnp.array([1.0, 3.0]))}))
      {'kernel': Array(3., dtype=float32)}
    """

    def condition(s: jax.Array) -> jax.Array:
        if s.shape[-1] == 0:
            return jnp.zeros(s.shape[:-1], s.dtype)
        largest, smallest = s[..., 0], s[..., -1]
        ratio = largest / jnp.where(smallest == 0, 1, smallest)
        return jnp.where(smallest == 0, jnp.inf, ratio)

    return _per_matrix(condition, tree, weight_dimension_numbers)


def effective_ranks(
    tree: optax.Params, *, weight_dimension_numbers: WeightDimensionNumbers = None
) -> optax.Params:
    r"""Effective rank of every matrix: the exponential of its spectrum's entropy.

    .. math:: \exp\Big(-\sum_i p_i \log p_i\Big),
        \qquad p_i = \sigma_i / \sum_j \sigma_j

    It is r for r equal singular values beside zeros, and 0 for a zero matrix.
    Arguments, errors and the shape of the tree are those of :func:`singular_values`,
    with a scalar (or one number a matrix of a batch) for each matrix.

    Example:
      >>> import jax.numpy as jnp
      >>> from egd_optax import effective_ranks
      >>> print(effective_ranks({"kernel": jnp.diag(jnp.array([2.0, 2.0, 0.0]))}))
      {'kernel': Array(2., dtype=float32)}

    Source: Roy and Vetterli, *The effective rank: a measure of effective
    dimensionality* (EUSIPCO 2007).
    """

    def effective_rank(s: jax.Array) -> jax.Array:
        s = s / power_of_two(largest_magnitude(s, axis=-1))
        total = jnp.sum(s, axis=-1, keepdims=True)
        p = s / jnp.where(total == 0, 1, total)
        # The slope at zero is infinite: a direction that is not there has none.
        summand = jnp.where(p > 0, jax.scipy.special.entr(jnp.where(p > 0, p, 1)), p)
        entropy = jnp.sum(summand, axis=-1)
        return jnp.where(total[..., 0] == 0, 0, jnp.exp(entropy))

    return _per_matrix(effective_rank, tree, weight_dimension_numbers)


def _per_matrix(
    fn: Callable[[jax.Array], jax.Array],
    tree: optax.Params,
    weight_dimension_numbers: WeightDimensionNumbers,
) -> optax.Params:
    check_dimension_numbers(weight_dimension_numbers)
    leaves, treedef = jax.tree.flatten(tree)
    layouts = matrix_layouts(tree, weight_dimension_numbers)
    results: list[jax.Array | None] = []
    for leaf, layout in zip(leaves, layouts, strict=True):
        if layout is None:
            results.append(None)
            continue
        results.append(same_everywhere(functools.partial(_of_leaf, fn, layout), leaf))
    return jax.tree.unflatten(treedef, results)


def _of_leaf(
    fn: Callable[[jax.Array], jax.Array], layout: MatrixLayout, leaf: jax.Array
) -> jax.Array:
    matrices = to_matrices(leaf, layout)
    wide = matrices.astype(at_least_float32(matrices.dtype))
    values = fn(singular_values_of(wide))
    return values if len(layout.axes) > 2 else values[0]
