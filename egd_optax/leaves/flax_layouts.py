"""Which axes of a Flax model's parameters are matrices, read off their names."""

import re
from types import MappingProxyType

import optax

from egd_optax.leaves.kernels import (
    MATRIX,
    all_into_the_last,
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
from egd_optax.leaves.scanned import Scanned


def flax_dimension_numbers(
    params: optax.Params,
    *,
    scanned: Scanned = (),
    named: Named = MappingProxyType({}),
    fused: Fused = MappingProxyType({}),
) -> optax.Params:
    r"""Names the matrices of a Flax model, for ``weight_dimension_numbers``.

    Works on NNX states and Linen ``params`` by names and shapes in the tree alone; Flax
    is not imported. For a leaf of one layer:

    ==================================  =========================  ================
    leaf                                shape                      fan-in → fan-out
    ==================================  =========================  ================
    ``kernel`` of Dense, Linear         (in, out)                  0 → 1
    ``lora_a``, ``lora_b``              (in, out)                  0 → 1
    ``kernel`` of a convolution         (window, in, out)          (0, …, -2) → -1
    ``kernel`` of query, key, value     (embed, heads, dim)        0 → (1, 2)
    ``kernel`` of attention's out       (heads, dim, embed)        (0, 1) → 2
    ``kernel`` beside (batch, out)      (batch, in, out), any      in → out
                                        number of axes each
    the same, of several gates (GRU)    (…, 3 out), (…, 4 out)     … by gates
    ``embedding``, ``bias``, ``scale``  any                        None: skipped
    vectors, scalars, ``batch_stats``                              None: skipped
    ==================================  =========================  ================

    The axes of layers are batch axes, so that every layer is a matrix of its own. So is
    every gate where a cell has them side by side: NNX's GRU and optimized LSTM, Linen's
    convolutional LSTM.
    A kernel of three or more axes without a bias is a convolution's where its path
    contains "conv". Where a bias stands beside a kernel, its shape must fit; it tells
    LinearGeneral, Einsum, unshared convolutions and transposed kernels (window, out,
    in), these unless there are as many inputs as outputs. Grouped convolutions are seen
    as one matrix unless ``fused`` has their number of groups. Embeddings are skipped
    because a batch touches only the rows of its own tokens, and whitening would move a
    rare token's row as far as a frequent one's; ``named={"embedding":
    MuonDimensionNumbers()}`` whitens them.

    Pass the function itself as ``weight_dimension_numbers`` (with
    ``functools.partial`` for its arguments). It then meets the same tree as the
    optimizer, whatever wraps the leaves there. Only where a mask takes out the bias
    that a kernel is told by (around :func:`egd_optax.scale_by_egd`, that of
    ``optax.multi_transform`` or of ``optax.contrib.muon``), the tree that it returns
    for all parameters has to be passed; the error says so. A kernel with "conv" on its
    path, and neither "transpose" nor "local", passes for an ordinary convolution's
    there: if it is another, pass the tree.

    Args:
      params: the parameters (or gradients) of a Flax model.
      scanned: names on the path of parameters that ``nn.scan``, ``nnx.scan`` or
        ``vmap`` stacked along axis 0, such as ``("blocks",)``; or a mapping to the axis
        they were stacked along, such as ``{"layers": 1}`` for
        ``variable_axes={"params": 1}``. Each occurrence on a path is one axis.
      named: what the names do not tell: the last parts of a path, joined by ``/``, and
        the numbers of the leaves found there (None skips them). The longest match
        wins, and goes before all of the rules above.
      fused: where several matrices of one size lie side by side along the output axis,
        such as ``{"qkv/kernel": 3}``: ends of paths as in ``named``, and how many. Each
        is whitened alone (:class:`egd_optax.FusedAxis`, for other axes).

    Returns:
      A tree of ``optax.contrib.MuonDimensionNumbers`` and None, one a leaf.

    Raises:
      ArgumentError: leaves of two or more axes that no rule fits, all of them, with
        paths, shapes and numbers that would do; layers that are not of one number
        along their axis; a leaf that is no array; ``scanned`` that holds no names or
        axes, ``named`` that maps no names to numbers, ``fused`` that maps none to a
        count.

    Example:
      >>> import jax.numpy as jnp
      >>> from egd_optax import flax_dimension_numbers, scale_by_egd
      >>> params = {"Dense_0": {"kernel": jnp.ones((3, 2)), "bias": jnp.ones(2)}}
      >>> print(flax_dimension_numbers(params)["Dense_0"]["kernel"])
      MuonDimensionNumbers(reduction_axis=(0,), output_axis=(1,))
      >>> tx = scale_by_egd(weight_dimension_numbers=flax_dimension_numbers)
    """
    return named_dimension_numbers(
        params, _sides, scanned=scanned, named=named, fused=fused
    )


def _sides(leaf: Leaf) -> Sides | None:
    name, rank = leaf.names[-1] if leaf.names else "", len(leaf.shape)
    if name in ("bias", "scale", "embedding") or "batch_stats" in leaf.names:
        return Sides()
    if name in ("lora_a", "lora_b") and rank == 2:
        return MATRIX
    if name != "kernel":
        return Sides() if rank <= 1 else None
    sides = confirmed_by_bias(leaf.shape, _told_by_name(leaf), leaf.bias)
    return sides and sides._replace(parts=_gates(leaf))


def _told_by_name(leaf: Leaf) -> Sides | None:
    rank, parent = len(leaf.shape), leaf.names[-2] if len(leaf.names) > 1 else ""
    if rank == 2:
        return MATRIX
    if rank == 3 and parent in ("query", "key", "value"):
        return Sides((0,), (1, 2))
    in_doubt = leaf.bias_is_masked and not leaf.near(2, "query", "kernel")
    if rank == 3 and parent == "out" and not in_doubt:
        return Sides((0, 1), (2,))
    path = " ".join(leaf.names).lower()
    # Transposed and unshared kernels are told by their bias alone.
    if leaf.bias_is_masked and re.search("transpose|local", path):
        return None
    if rank >= 3 and ("conv" in path or _gates(leaf) > 1):
        return all_into_the_last(leaf.shape)
    return None


# What Flax calls the layers from the hidden state and from the input to all gates.
_RECURRENT = (("dense_h", "dense_i"), ("hh", "ih"))


def _gates(leaf: Leaf) -> int:
    """How many gates of a recurrent cell a kernel holds side by side."""
    parent = leaf.names[-2] if len(leaf.names) > 1 else ""
    for hidden, inputs in _RECURRENT:
        to_gates, from_input = (
            leaf.near(2, name, "kernel") for name in (hidden, inputs)
        )
        if parent in (hidden, inputs) and to_gates and from_input:
            return gates_of(to_gates)
    return 1
