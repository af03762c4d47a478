"""Which axes of an Equinox model's parameters are matrices, read off its modules."""

import functools
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any

import jax
import optax

from egd_optax.leaves.named_layouts import (
    Fused,
    Leaf,
    Named,
    Sides,
    named_dimension_numbers,
)
from egd_optax.leaves.scanned import Scanned


def equinox_dimension_numbers(
    params: optax.Params,
    *,
    scanned: Scanned = (),
    named: Named = MappingProxyType({}),
    fused: Fused = MappingProxyType({}),
) -> optax.Params:
    r"""Names the matrices of an Equinox model, for ``weight_dimension_numbers``.

    An array is told by the module of ``equinox.nn`` (or a subclass of one) that holds
    it; Equinox is not imported.

    ==============================================  =================  ================
    leaf                                            shape              fan-in → fan-out
    ==============================================  =================  ================
    ``weight`` of Linear, in attention, too         (out, in)          1 → 0
    ``weight`` of a convolution, transposed or not  (out, in, window)  (1, …) → 0
    the same in groups                              (out, in, window)  that by groups
    ``weight_ih``, ``weight_hh`` of GRU             (3 out, in)        1 → 0 by gates
    ``weight_ih``, ``weight_hh`` of LSTM            (4 out, in)        1 → 0 by gates
    of Embedding and normalizations; biases         any                None: skipped
    vectors, scalars, what is no array                                 None: skipped
    ==============================================  =================  ================

    All else is as for :func:`egd_optax.flax_dimension_numbers`, arguments and errors
    included; names in ``scanned``, of modules that ``eqx.filter_vmap`` made, ``named``
    and ``fused`` are attributes and positions, ``"layers/0/weight"``.

    Example:
      >>> from egd_optax import egd, equinox_dimension_numbers
      >>> tx = egd(0.05, weight_dimension_numbers=equinox_dimension_numbers)

      and, with a model, ``tx.init(eqx.filter(model, eqx.is_inexact_array))``.
    """
    # A whole model has functions for leaves, too.
    arrays = jax.tree.map(lambda leaf: leaf if hasattr(leaf, "ndim") else None, params)
    return named_dimension_numbers(
        arrays,
        functools.partial(_sides, _holders(arrays)),
        scanned=scanned,
        named=named,
        fused=fused,
    )


def _holders(tree: Any) -> dict[Any, Any]:
    """The node that holds each array, by the array's path."""
    holders = {}

    def walk(node: Any, path: tuple[Any, ...]) -> None:
        children = jax.tree_util.tree_leaves_with_path(
            node, is_leaf=lambda child: child is not node
        )
        for step, child in children:
            if step:
                holders[(*path, *step)] = node
                walk(child, (*path, *step))

    walk(tree, ())
    return holders


def _sides(holders: Mapping[Any, Any], leaf: Leaf) -> Sides | None:
    if len(leaf.shape) <= 1 or leaf.names[-1:] == ("bias",):
        return Sides()
    holder = holders.get(leaf.path)
    for cls in type(holder).__mro__:
        if not cls.__module__.startswith("equinox."):
            continue
        if cls.__name__ in _SKIPPED:
            return Sides()
        if cls.__name__ in _RULES:
            return _RULES[cls.__name__](holder, leaf)
    return None


_SKIPPED = (
    *("Embedding", "PReLU", "WeightNorm"),
    *("BatchNorm", "GroupNorm", "LayerNorm", "RMSNorm"),
)


def _linear(module: Any, leaf: Leaf) -> Sides | None:
    return Sides((1,), (0,)) if len(leaf.shape) == 2 else None


def _convolution(module: Any, leaf: Leaf) -> Sides | None:
    rank = 2 + module.num_spatial_dims
    inputs = tuple(range(1, rank))
    return Sides(inputs, (0,), module.groups) if len(leaf.shape) == rank else None


def _gates(module: Any, leaf: Leaf) -> Sides | None:
    sides = _linear(module, leaf)
    return sides and sides._replace(parts=leaf.shape[0] // max(module.hidden_size, 1))


_RULES: dict[str, Callable[[Any, Leaf], Sides | None]] = {
    "Linear": _linear,
    "Conv": _convolution,
    "ConvTranspose": _convolution,
    "GRUCell": _gates,
    "LSTMCell": _gates,
}
