"""Which axes of a Haiku model's parameters are matrices, read off their names."""

import re
from types import MappingProxyType

import optax

from egd_optax.leaves.kernels import (
    MATRIX,
    all_into_the_last,
    all_into_the_last_but_one,
    confirmed_by_bias,
    gates_of,
)
from egd_optax.leaves.named_layouts import (
    Fused,
    Leaf,
    Named,
    Sides,
    named_dimension_numbers,
)
from egd_optax.leaves.scanned import Scanned, checked_scanned


def haiku_dimension_numbers(
    params: optax.Params,
    *,
    scanned: Scanned = (),
    named: Named = MappingProxyType({}),
    fused: Fused = MappingProxyType({}),
) -> optax.Params:
    r"""Names the matrices of a Haiku model, for ``weight_dimension_numbers``.

    Works by names and shapes in the tree alone; Haiku is not imported.

    ============================================  =================  ================
    leaf                                          shape              fan-in → fan-out
    ============================================  =================  ================
    ``w`` of Linear, attention                    (in, out)          0 → 1
    ``w`` of a convolution                        (window, in, out)  (0, …, -2) → -1
    ``w`` of a transposed convolution             (window, out, in)  (0, …, -1) → -2
    ``w_i``, ``w_h`` of GRU                       (in, 3 out)        0 → 1 by gates
    ``w`` of LSTM, convolutional or not           (…, 4 out)         the same
    ``b``, ``scale``, ``offset``, ``embeddings``  any                None: skipped
    vectors, scalars                                                 None: skipped
    ============================================  =================  ================

    Layers of ``hk.layer_stack`` are known by the name it gives them, a convolution
    without a bias by "conv" on its path, a transposed one by "transpose" in its name or
    by its bias, an LSTM by its name. All else is as for
    :func:`egd_optax.flax_dimension_numbers`, arguments and errors included.

    Example:
      >>> import jax.numpy as jnp
      >>> from egd_optax import haiku_dimension_numbers, scale_by_egd
      >>> params = {"mlp/~/linear_0": {"w": jnp.ones((3, 2)), "b": jnp.ones(2)}}
      >>> print(haiku_dimension_numbers(params)["mlp/~/linear_0"]["w"])
      MuonDimensionNumbers(reduction_axis=(0,), output_axis=(1,))
      >>> tx = scale_by_egd(weight_dimension_numbers=haiku_dimension_numbers)
    """
    scanned = {**dict.fromkeys(_LAYER_STACKS, 0), **checked_scanned(scanned)}
    return named_dimension_numbers(
        params, _sides, scanned=scanned, named=named, fused=fused, bias="b"
    )


_LAYER_STACKS = ("__layer_stack_no_per_layer", "__layer_stack_with_per_layer")


def _sides(leaf: Leaf) -> Sides | None:
    name, rank = leaf.names[-1] if leaf.names else "", len(leaf.shape)
    if name in ("b", "scale", "offset", "embeddings"):
        return Sides()
    gates = leaf.near(1, "w_h")
    if name in ("w_i", "w_h") and rank == 2 and gates:
        return MATRIX._replace(parts=gates_of(gates))
    if name != "w":
        return Sides() if rank <= 1 else None
    bias = leaf.bias
    # (out, 1, 1) where channels come first.
    if bias and bias[1:] == (1,) * (len(bias) - 1):
        bias = bias[:1]
    sides = confirmed_by_bias(leaf.shape, _told_by_name(leaf), bias)
    return sides and sides._replace(parts=_gates(leaf))


def _told_by_name(leaf: Leaf) -> Sides | None:
    rank, module = len(leaf.shape), leaf.names[:-1]
    if rank == 2:
        return MATRIX
    if rank < 2 or not any("conv" in name for name in module):
        return None
    if "transpose" in module[-1]:
        return all_into_the_last_but_one(leaf.shape)
    return all_into_the_last(leaf.shape)


def _gates(leaf: Leaf) -> int:
    """How many gates of a recurrent core a ``w`` holds side by side."""
    *_, core, linear = "", "", *leaf.names[:-1]
    if linear == "linear" and re.fullmatch(r"lstm(_\d+)?", core):
        return 4
    to_gates = leaf.near(2, "hidden_to_hidden", "w")
    if linear in ("hidden_to_hidden", "input_to_hidden") and to_gates:
        return gates_of(to_gates)
    return 1
