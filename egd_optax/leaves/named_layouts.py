"""Dimension numbers of a whole model: leaf by leaf, from names, shapes and siblings."""

from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from optax.contrib import MuonDimensionNumbers

from egd_optax.arguments import ArgumentError, checked_count, shown
from egd_optax.leaves.checks import axes_of, is_number, named_leaf, rank_of
from egd_optax.leaves.fused import FusedAxis
from egd_optax.leaves.scanned import Scanned, axes_of_one_layer, checked_scanned

Names = tuple[str, ...]
Shape = tuple[int, ...]
Named = Mapping[str, MuonDimensionNumbers | None]
Fused = Mapping[str, int]


class Sides(NamedTuple):
    """Input and output axes of one layer's leaf; without any, it is skipped."""

    reduction: tuple[int, ...] = ()
    output: tuple[int, ...] = ()
    parts: int = 1  # matrices side by side along the first output axis


class Leaf(NamedTuple):
    """What a leaf can be told by; all shapes are those of one layer."""

    path: Any
    names: Names
    shape: Shape
    bias: Shape | None  # of the bias beside it
    bias_is_masked: bool  # there is one, and nothing is known of it
    shapes: Mapping[Names, Shape]  # of all leaves

    def near(self, up: int, *names: str) -> Shape | None:
        """Shape of the leaf of these names below the node ``up`` steps above."""
        return self.shapes.get(self.names[:-up] + names)


def named_dimension_numbers(
    params: optax.Params,
    sides_of: Callable[[Leaf], Sides | None],
    *,
    scanned: Scanned,
    named: Named,
    fused: Fused,
    bias: str = "bias",
) -> optax.Params:
    """A tree of numbers by a rule, which returns None for a leaf that it does not know.

    What is not known and what cannot be right is refused all at once.
    """
    axis_of = checked_scanned(scanned)
    _check_ends(named, fused)
    arrays = {
        _above_box(path): leaf
        for path, leaf in jax.tree_util.tree_leaves_with_path(params)
    }
    names = {path: _names(path) for path in arrays}
    for path, leaf in arrays.items():
        rank_of(path, leaf)
    given = {
        path: named[end]
        for path in arrays
        if (end := _longest_end(named, names[path])) is not None
    }
    told = {path: leaf for path, leaf in arrays.items() if path not in given}
    layers, problems = axes_of_one_layer(told, names, axis_of)
    if problems:
        raise ArgumentError(f"scanned does not fit: {'; '.join(problems)}")
    # What is named need not be stacked like the others, and tells them all the same.
    named_layers, _ = axes_of_one_layer(
        {path: arrays[path] for path in given}, names, axis_of
    )
    shapes = {
        names[path]: tuple(jnp.shape(arrays[path])[axis] for axis in axes)
        for path, axes in (named_layers | layers).items()
    }
    numbers: dict[Any, MuonDimensionNumbers | None] = dict(given)
    unknown: dict[Names, str] = {}
    masked = _masked(params)
    for path, axes in layers.items():
        beside = (*names[path][:-1], bias)
        leaf = Leaf(
            path,
            names[path],
            shape=shapes[names[path]],
            bias=shapes.get(beside),
            bias_is_masked=beside in masked,
            shapes=shapes,
        )
        sides = sides_of(leaf)
        if sides is None:
            problems.append(_described(leaf, arrays[path]))
            unknown[leaf.names] = _that_would_do(leaf, axes)
            continue
        end = _longest_end(fused, leaf.names)
        parts = sides.parts if end is None else fused[end]
        numbers[path] = _in_the_array(sides._replace(parts=parts), axes)
    if problems:
        raise ArgumentError(
            f"no rule fits {'; '.join(problems)}. Say in scanned= which names are "
            "stacks of layers, and along which axis, or in named= which axes are input "
            "and output (others are batch axes, None skips). If a mask took a bias "
            "out, give the tree of all parameters' numbers, not the function. By shape "
            f"alone these would do: named={_ready_to_paste(unknown, names.values())}"
        )
    return jax.tree_util.tree_map_with_path(
        # Nothing there is where optax.masked took the leaf out of its box.
        lambda path, box: numbers.get(path),
        params,
        is_leaf=_is_box,
    )


def _check_ends(named: Any, fused: Any) -> None:
    for name, ends, what in (
        ("named", named, "MuonDimensionNumbers or None"),
        ("fused", fused, "how many matrices lie side by side there"),
    ):
        if not isinstance(ends, Mapping):
            raise ArgumentError(
                f"{name} must map ends of paths to {what}, got {shown(ends)}"
            )
        for end, value in ends.items():
            if not isinstance(end, str) or (name == "named" and not is_number(value)):
                raise ArgumentError(
                    f"{name} must map ends of paths to {what}, got "
                    f"{shown(end)}: {shown(value)}"
                )
    for number in named.values():
        for side in number or ():
            axes_of(side)
    for end, parts in fused.items():
        checked_count(f"fused[{end!r}]", parts)


def _longest_end(ends: Iterable[str], names: Names) -> str | None:
    # The last of them is empty: the end of a bare array's path, and of all others.
    candidates = ("/".join(names[start:]) for start in range(len(names) + 1))
    return next((end for end in candidates if end in ends), None)


def _in_the_array(sides: Sides, axes: Shape) -> MuonDimensionNumbers | None:
    """Numbers of the whole array, of which these axes are one layer's."""
    if not sides.output:
        return None
    reduction, output = ([axes[i] for i in side] for side in sides[:2])
    if sides.parts > 1:
        output[0] = FusedAxis(output[0], sides.parts)
    return MuonDimensionNumbers(tuple(reduction), tuple(output))


def _described(leaf: Leaf, array: Any) -> str:
    text = f"{named_leaf(leaf.path)} of shape {jnp.shape(array)}, "
    if leaf.shape != jnp.shape(array):
        text += f"of which one layer is {leaf.shape}, "
    if leaf.bias_is_masked:
        return text + "its bias taken out by a mask"
    return text + ("no bias" if leaf.bias is None else f"a bias of {leaf.bias}")


def _that_would_do(leaf: Leaf, axes: Shape) -> str:
    """Numbers to begin with, as they are written in a program."""
    *window, size_in, size_out = range(len(axes)) if len(axes) > 1 else (0, 0)
    named_so = not _MATRICES.isdisjoint(leaf.names[-1:])
    if len(axes) < 2 or (len(axes) == 2 and not named_so):
        return "None"
    # A window is as long as it is wide. All else may be a stack of matrices.
    if len(window) > 1 and len({leaf.shape[i] for i in window}) == 1:
        sides = Sides((*window, size_in), (size_out,))
    else:
        sides = Sides((size_in,), (size_out,))
    number = _in_the_array(sides, axes)
    assert number is not None
    reduction, output = (
        side[0] if len(side) == 1 else side
        for side in (number.reduction_axis, number.output_axis)
    )
    return f"MuonDimensionNumbers({reduction}, {output})"


_MATRICES = {"kernel", "weight", "w"}


def _ready_to_paste(unknown: dict[Names, str], everything: Iterable[Names]) -> str:
    """Under ends of paths, as short as can be, that reach no leaf of other numbers."""
    ends = {}
    all_names = list(everything)
    for names, number in unknown.items():
        for start in range(max(len(names) - 2, 0), -1, -1):
            end = names[start:]
            reached = [other for other in all_names if other[-len(end) :] == end]
            if all(unknown.get(other) == number for other in reached):
                break
        ends["/".join(end)] = number
    return f"{{{', '.join(f'{end!r}: {number}' for end, number in ends.items())}}}"


def _names(path: Any) -> Names:
    # Haiku's modules, and scales of Linen's WeightNorm, have paths for names.
    keys = (jax.tree_util.keystr((key,), simple=True) for key in path)
    return tuple(name for key in keys for name in key.split("/"))


def _masked(params: Any) -> set[Names]:
    """Where a mask of optax took a leaf out."""
    leaves = jax.tree_util.tree_leaves_with_path(params, is_leaf=_is_masked)
    return {_names(_above_box(path)) for path, leaf in leaves if _is_masked(leaf)}


def _is_masked(node: Any) -> bool:
    return isinstance(node, optax.MaskedNode)


# nnx.Variable and nn.Partitioned hold their array so. The optimizer of NNX unboxes the
# parameters at update, but not at init; numbers that end above the box fit both.
_BOXED = jax.tree_util.GetAttrKey("value")


def _above_box(path: Any) -> Any:
    return path[:-1] if path and path[-1] == _BOXED else path


def _is_box(node: Any) -> bool:
    children = jax.tree_util.tree_leaves_with_path(
        node, is_leaf=lambda child: child is not node
    )
    return [path for path, _ in children] == [(_BOXED,)]
