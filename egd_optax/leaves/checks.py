"""Trees refused where they are given: gradients, parameters, masks, axes."""

import functools
import operator
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from optax.contrib import MuonDimensionNumbers

from egd_optax.arguments import ArgumentError, shown
from egd_optax.leaves.fused import FusedAxis

Mask = Any | Callable[[optax.Params], Any]


def checked_params(
    params: optax.Params | None, name: str, updates: optax.Updates
) -> optax.Params:
    """Those that have a gradient; refused if they are missing or do not fit it."""
    if params is None:
        raise ArgumentError(
            f"{name} needs the parameters, got None: call "
            "tx.update(grads, state, params)"
        )
    params = where_given(updates, params)
    check_floating("parameter", params)
    check_alike(updates, "params", params)
    return params


def where_given(
    updates: optax.Updates, params: optax.Params | None
) -> optax.Params | None:
    """The parameters, None where the gradients are.

    A model that is a tree itself (Equinox) has integers and functions for leaves, and
    no gradient there. Neither optax.masked nor lax.cond can have them.
    """
    if params is None:
        return None
    leaves, treedef = jax.tree.flatten(updates, is_leaf=_is_none)
    beside = leaves_below(
        updates, params, "the gradients do not fit params", is_leaf=_is_none
    )
    kept = (None if g is None else p for g, p in zip(leaves, beside, strict=True))
    return jax.tree.unflatten(treedef, kept)


def check_floating(what: str, tree: Any) -> None:
    """Refuses leaves that are no arrays of floating or complex numbers."""
    for path, leaf in jax.tree_util.tree_leaves_with_path(tree):
        dtype = getattr(leaf, "dtype", None)
        if dtype is None or not jnp.issubdtype(dtype, jnp.inexact):
            raise ArgumentError(
                f"the {what}{_at(path)} must be an array of floating numbers, got "
                f"{shown(leaf) if dtype is None else dtype}"
            )


def check_alike(updates: optax.Updates, name: str, other: Any) -> None:
    """Refuses gradients, and a tree beside them, that differ in structure or shapes."""
    check_floating("gradient", updates)
    others = leaves_below(updates, other, f"the gradients do not fit {name}")
    paths = jax.tree_util.tree_leaves_with_path(updates)
    for (path, leaf), beside in zip(paths, others, strict=True):
        shape = getattr(beside, "shape", None)
        if shape != leaf.shape:
            raise ArgumentError(
                f"the gradient{_at(path)} has shape {leaf.shape}, and {name} there "
                f"{shown(beside) if shape is None else f'shape {shape}'}"
            )


def leaves_below(prefix: Any, tree: Any, problem: str, **is_leaf: Any) -> list[Any]:
    """What the tree has at each leaf of a prefix of it; refused if it is none."""
    treedef: Any = jax.tree.structure(prefix, **is_leaf)
    try:
        return treedef.flatten_up_to(tree)
    except (TypeError, ValueError) as error:
        first, second = (
            {jax.tree_util.keystr(path) for path, _ in leaves}
            for leaves in (
                jax.tree_util.tree_leaves_with_path(prefix, **is_leaf),
                jax.tree_util.tree_leaves_with_path(tree),
            )
        )
        differ = f"leaves {shown(sorted(first))} and {shown(sorted(second))}"
        if first == second:
            # Lists and tuples, mappings of different kinds.
            nodes = (shown(jax.tree.structure(x, **is_leaf)) for x in (prefix, tree))
            differ = f"the same leaves in other containers, {' and '.join(nodes)}"
        raise ArgumentError(f"{problem}: {differ}") from error


def rank_of(path: Any, leaf: Any) -> int:
    """Number of axes of a leaf, which is refused if it is neither array nor number."""
    if not hasattr(leaf, "ndim") and not isinstance(leaf, (bool, int, float, complex)):
        raise ArgumentError(f"{named_leaf(path)} must be an array, got {shown(leaf)}")
    return jnp.ndim(leaf)


def named_leaf(path: Any) -> str:
    """A leaf as it stands in a message."""
    return f"leaf {jax.tree_util.keystr(path) or 'params'}"


def checked_mask(name: str, mask: Mask) -> Callable[[Any], Any]:
    """A mask as a function, made to refuse what is no mask of the tree it meets."""
    called = is_function(mask)
    if not called:
        _check_booleans(name, mask)

    def mask_of(tree: Any) -> Any:
        given = mask(tree) if called else mask
        _check_booleans(name, given)
        leaves_below(given, tree, f"{name} is no prefix of the tree that it is for")
        return given

    return mask_of


def _check_booleans(name: str, mask: Any) -> None:
    for path, leaf in jax.tree_util.tree_leaves_with_path(mask):
        # JAX arrays too, but optax asks for the value, and a traced one has none.
        traced = isinstance(leaf, jax.core.Tracer)
        if traced or np.shape(leaf) != () or np.asarray(leaf).dtype != np.bool_:
            raise ArgumentError(
                f"{name} must be a tree of True and False, or a function of the "
                f"parameters that returns one, got {shown(leaf)}{_at(path)}"
            )


def is_function(value: Any, **is_leaf: Any) -> bool:
    """Whether a value is a function, and no tree that can be called as well.

    Equinox's modules are such trees. ``jax.tree_util.Partial`` is a tree as well, but
    of a function's arguments.
    """
    if isinstance(value, functools.partial):
        return True
    leaves = jax.tree.leaves(value, **is_leaf)
    return callable(value) and all(map(callable, leaves))


def check_dimension_numbers(numbers: Any) -> None:
    """Refuses what can be no ``weight_dimension_numbers``, whatever the parameters."""
    if is_function(numbers, is_leaf=is_number):
        return
    leaves = jax.tree_util.tree_leaves_with_path(numbers, is_leaf=is_number)
    for path, number in leaves:
        if not is_number(number):
            raise ArgumentError(
                "weight_dimension_numbers must be a tree of "
                "optax.contrib.MuonDimensionNumbers and None, or a function that "
                f"returns one, got {shown(number)}{_at(path)}"
            )
        for side in number or ():
            axes_of(side)


def is_number(node: Any) -> bool:
    """Whether a node of a tree of dimension numbers is a leaf of it."""
    return node is None or isinstance(node, MuonDimensionNumbers)


def axes_of(side: Any) -> tuple[int, ...]:
    """One side of ``MuonDimensionNumbers``, an axis or several, as a tuple."""
    axes = side if isinstance(side, (tuple, list)) else (side,)
    try:
        return tuple(
            axis if isinstance(axis, FusedAxis) else operator.index(axis)
            for axis in axes
        )
    except TypeError as error:
        raise ArgumentError(
            "an axis of weight_dimension_numbers must be an integer or a tuple of "
            f"integers, got {shown(side)}"
        ) from error


def _is_none(node: Any) -> bool:
    return node is None


def _at(path: Any) -> str:
    return f" at {jax.tree_util.keystr(path)}" if path else ""
