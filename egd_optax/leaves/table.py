"""A table of what is seen as matrices."""

import math

import jax
import jax.numpy as jnp
import optax

from egd_optax.leaves.checks import check_dimension_numbers
from egd_optax.leaves.layouts import (
    MatrixLayout,
    WeightDimensionNumbers,
    matrix_layouts,
)


def tabulate_matrices(
    params: optax.Params, weight_dimension_numbers: WeightDimensionNumbers = None
) -> str:
    """Says of each leaf which matrices it is, or that it is none; for print.

    Each matrix is whitened, penalized, normalized alone. What is none goes to Adam in
    :func:`egd_optax.egd`, and passes through every other transformation.

    Args:
      params: parameters, gradients or their shapes (``jax.eval_shape``).
      weight_dimension_numbers: which axes of each leaf are input and output, as in
        :func:`egd_optax.scale_by_egd`.

    Returns:
      A line for each leaf with its path, its shape, and how many matrices it is, of
      what fan-in × fan-out. The last line counts them, and their share of all
      parameters.

    Raises:
      ArgumentError: dimension numbers are none or do not fit a leaf; a leaf is no array
        or a matrix of integers.

    Example:
      >>> import jax.numpy as jnp
      >>> from egd_optax import flax_dimension_numbers, tabulate_matrices
      >>> params = {
      ...     "Conv_0": {"kernel": jnp.ones((3, 3, 1, 8)), "bias": jnp.ones(8)},
      ...     "Dense_0": {"kernel": jnp.ones((8, 10)), "bias": jnp.ones(10)},
      ... }
      >>> print(tabulate_matrices(params, flax_dimension_numbers))
      path            shape         matrices
      Conv_0/bias     (8,)          none (Adam)
      Conv_0/kernel   (3, 3, 1, 8)  1 of 9 × 8
      Dense_0/bias    (10,)         none (Adam)
      Dense_0/kernel  (8, 10)       1 of 8 × 10
      matrices: 2, in 2 of 4 leaves, with 89.4% of 170 parameters
    """
    check_dimension_numbers(weight_dimension_numbers)
    if weight_dimension_numbers is None:
        # The table says what the warning of the default rule would.
        weight_dimension_numbers = _default_rule
    leaves = jax.tree_util.tree_leaves_with_path(params)
    layouts = matrix_layouts(params, weight_dimension_numbers)
    rows = [("path", "shape", "matrices")]
    matrices = whitened = 0
    # Functions are leaves of a whole model of Equinox.
    seen = [
        (path, jnp.shape(leaf), layout)
        for (path, leaf), layout in zip(leaves, layouts, strict=True)
        if not callable(leaf)
    ]
    for path, shape, layout in seen:
        rows.append(
            (
                jax.tree_util.keystr(path, simple=True, separator="/"),
                str(shape),
                _count(layout),
            )
        )
        if layout:
            matrices += layout.shape[0]
            whitened += math.prod(layout.shape)
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = ["  ".join(map(str.ljust, row, widths)).rstrip() for row in rows]
    total = sum(math.prod(shape) for _, shape, _ in seen)
    share = whitened / total if total else 0
    found = sum(layout is not None for _, _, layout in seen)
    lines.append(
        f"matrices: {matrices}, in {found} of {len(seen)} leaves, with {share:.1%} "
        f"of {total} parameters"
    )
    return "\n".join(lines)


def _count(layout: MatrixLayout | None) -> str:
    if layout is None:
        return "none (Adam)"
    count, fan_in, fan_out = layout.shape
    return f"{count} of {fan_in} × {fan_out}"


def _default_rule(tree: optax.Params) -> None:
    return None
