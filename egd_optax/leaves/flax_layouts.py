"""Which axes of a Flax model's parameters are matrices, read off their names."""

from collections.abc import Collection, Mapping
from types import MappingProxyType
from typing import Any

import jax
import jax.numpy as jnp
import optax
from optax.contrib import MuonDimensionNumbers

from egd_optax.arguments import ArgumentError, shown
from egd_optax.leaves.checks import axes_of, is_number, rank_of


def flax_dimension_numbers(
    params: optax.Params,
    *,
    scanned: Collection[str] = (),
    named: Mapping[str, MuonDimensionNumbers | None] = MappingProxyType({}),
) -> optax.Params:
    r"""Names the matrices of a Flax model, for ``weight_dimension_numbers``.

    Works on NNX states and Linen ``params`` by the names in the tree alone; Flax is
    not imported. For a leaf below m leading layer axes:

    ====================================  ========================  ================
    leaf                                  shape                     fan-in → fan-out
    ====================================  ========================  ================
    ``kernel`` of Dense, Linear           (in, out)                 0 → 1
    ``kernel`` of a convolution           (window, in, out)         (0, …, -2) → -1
    ``kernel`` of query, key, value       (embed, heads, head_dim)  0 → (1, 2)
    ``kernel`` of attention's out         (heads, head_dim, embed)  (0, 1) → 2
    ``embedding``, ``bias``, ``scale``    any                       None: skipped
    vectors, scalars                                                None: skipped
    ====================================  ========================  ================

    all shifted by m; the layer axes are batch axes, so that every layer is a matrix of
    its own. A kernel of three or more axes counts as a convolution's where its path
    contains "conv"; grouped convolutions are seen as one matrix. Where a bias stands
    beside a kernel, its rank must fit. Embeddings are skipped because a batch touches
    only the rows of its own tokens, and whitening would move a rare token's row as far
    as a frequent one's; ``named={"embedding": MuonDimensionNumbers()}`` whitens them.

    Pass the function itself as ``weight_dimension_numbers`` (with
    ``functools.partial`` for its arguments). It then meets the same tree as the
    optimizer, whatever wraps the leaves there.

    Args:
      params: the parameters (or gradients) of a Flax model.
      scanned: names on the path of parameters that ``nn.scan``, ``nnx.scan`` or
        ``vmap`` stacked along axis 0, such as ``("blocks",)``. Each occurrence on a
        path is one leading axis.
      named: what the names do not tell: the last parts of a path, joined by ``/``, and
        the numbers of the leaves found there (None skips them). The longest match
        wins, and goes before all of the rules above.

    Returns:
      A tree of ``optax.contrib.MuonDimensionNumbers`` and None, one a leaf.

    Raises:
      ArgumentError: a leaf of two or more axes that no rule fits, with its path and
        shape, and what to do; a leaf that is no array; ``scanned`` that holds no names,
        ``named`` that maps no names to numbers.

    Example:
      >>> import jax.numpy as jnp
      >>> from egd_optax import flax_dimension_numbers, scale_by_egd
      >>> params = {"Dense_0": {"kernel": jnp.ones((3, 2)), "bias": jnp.ones(2)}}
      >>> print(flax_dimension_numbers(params)["Dense_0"]["kernel"])
      MuonDimensionNumbers(reduction_axis=(0,), output_axis=(1,))
      >>> tx = scale_by_egd(weight_dimension_numbers=flax_dimension_numbers)
    """
    _check_names(scanned, named)
    ranks = {
        _names(path): rank_of(path, leaf)
        for path, leaf in jax.tree_util.tree_leaves_with_path(params)
    }

    def number(path: Any, box: Any) -> MuonDimensionNumbers | None:
        names = _names(path)
        for start in range(len(names)):
            if (end := "/".join(names[start:])) in named:
                return named[end]
        # Empty where optax.masked took the leaf out.
        for leaf in jax.tree.leaves(box):
            layers = sum(name in scanned for name in names)
            axes = _matrix_axes(names, jnp.ndim(leaf) - layers)
            if axes == ():
                return None
            bias = ranks.get((*names[:-1], "bias"))
            if axes and bias in (None, layers + len(axes[1])):
                return _shifted(axes, layers)
            raise refusal(path, leaf, layers, bias)
        return None

    def refusal(path: Any, leaf: Any, layers: int, bias: int | None) -> ArgumentError:
        return ArgumentError(
            f"leaf {jax.tree_util.keystr(path)} of shape {jnp.shape(leaf)}, with "
            f"{layers} leading layer axes and "
            f"{'no bias' if bias is None else f'a bias of {bias} axes'}, is no matrix "
            f"of a known kind: say in scanned= which names are stacks of layers, or "
            f"give its numbers in named={{{'/'.join(_names(path)[-2:])!r}: ...}}, None "
            "to skip it"
        )

    return jax.tree_util.tree_map_with_path(number, params, is_leaf=_is_box)


def _check_names(scanned: Any, named: Any) -> None:
    # The letters of a bare string would count as names.
    if (
        isinstance(scanned, str)
        or not isinstance(scanned, Collection)
        or not all(isinstance(name, str) for name in scanned)
    ):
        raise ArgumentError(
            f'scanned must hold names, such as ("blocks",), got {shown(scanned)}'
        )
    if not isinstance(named, Mapping):
        raise ArgumentError(
            "named must map ends of paths to MuonDimensionNumbers or None, got "
            f"{shown(named)}"
        )
    for end, number in named.items():
        if not isinstance(end, str) or not is_number(number):
            raise ArgumentError(
                "named must map ends of paths to MuonDimensionNumbers or None, got "
                f"{shown(end)}: {shown(number)}"
            )
        for side in number or ():
            axes_of(side)


_Axes = tuple[tuple[int, ...], tuple[int, ...]]


def _matrix_axes(names: tuple[str, ...], rank: int) -> _Axes | tuple[()] | None:
    """Input and output axes of one layer's leaf; () skips it, None: not known."""
    name, parent = names[-1] if names else "", names[-2] if len(names) > 1 else ""
    if name in ("bias", "scale", "embedding"):
        return ()
    if name != "kernel":
        return () if rank <= 1 else None
    if rank == 2:
        return (0,), (1,)
    if rank == 3 and parent in ("query", "key", "value"):
        return (0,), (1, 2)
    if rank == 3 and parent == "out":
        return (0, 1), (2,)
    if rank >= 3 and any("conv" in part.lower() for part in names):
        return tuple(range(rank - 1)), (rank - 1,)
    return None


def _shifted(axes: _Axes, by: int) -> MuonDimensionNumbers:
    reduction, output = (tuple(axis + by for axis in side) for side in axes)
    return MuonDimensionNumbers(reduction, output)


def _names(path: Any) -> tuple[str, ...]:
    names = [jax.tree_util.keystr((key,), simple=True) for key in path]
    return tuple(names[:-1] if path and path[-1] == _BOXED else names)


# nnx.Variable and nn.Partitioned hold their array so. The optimizer of NNX unboxes the
# parameters at update, but not at init; numbers that end above the box fit both.
_BOXED = jax.tree_util.GetAttrKey("value")


def _is_box(node: Any) -> bool:
    children = jax.tree_util.tree_leaves_with_path(
        node, is_leaf=lambda child: child is not node
    )
    return [path for path, _ in children] == [(_BOXED,)]
