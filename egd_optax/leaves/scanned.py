"""Which axes of an array are those of one layer, where a scan stacked layers."""

import operator
from collections.abc import Collection, Mapping
from typing import Any

import jax
import jax.numpy as jnp

from egd_optax.arguments import ArgumentError, shown

Scanned = Collection[str] | Mapping[str, int]


def checked_scanned(scanned: Scanned) -> Mapping[str, int]:
    """The axis of the layers below each name; a bare collection of names means 0."""
    wanted = 'scanned must hold names, such as ("blocks",), or map them to axes, got '
    # The letters of a bare string would count as names.
    if isinstance(scanned, str) or not isinstance(scanned, Collection):
        raise ArgumentError(wanted + shown(scanned))
    try:
        axes = scanned if isinstance(scanned, Mapping) else dict.fromkeys(scanned, 0)
        axes = {name: operator.index(axis) for name, axis in axes.items()}
    except TypeError as error:
        raise ArgumentError(wanted + shown(scanned)) from error
    if not all(isinstance(name, str) for name in axes):
        raise ArgumentError(wanted + shown(scanned))
    return axes


def axes_of_one_layer(
    arrays: Mapping[Any, Any],
    names_of: Mapping[Any, tuple[str, ...]],
    scanned: Mapping[str, int],
) -> tuple[dict[Any, tuple[int, ...]], list[str]]:
    """The axes of each array that are not layers, and what cannot be right.

    An outer scan stacks what an inner one has stacked, so that its axis counts among
    all of them, and that of the inner one among those that remain.
    """
    layers: dict[Any, tuple[int, ...]] = {}
    # For each node that is a stack: how many layers it has, and where.
    stacks: dict[tuple[str, ...], dict[int, str]] = {}
    problems = []
    for path, array in arrays.items():
        shape, where = jnp.shape(array), jax.tree_util.keystr(path)
        axes = list(range(len(shape)))
        for depth, name in enumerate(names_of[path], start=1):
            if name not in scanned:
                continue
            if not -len(axes) <= scanned[name] < len(axes):
                problems.append(
                    f"leaf {where} of shape {shape} has no axis {scanned[name]} for "
                    f"the layers of {name!r}"
                )
                axes = []
                break
            size = shape[axes.pop(scanned[name])]
            stacks.setdefault(names_of[path][:depth], {}).setdefault(size, where)
        layers[path] = tuple(axes)
    for node, sizes in stacks.items():
        if len(sizes) > 1:
            found = ", ".join(f"{size} at {where}" for size, where in sizes.items())
            problems.append(
                f"the layers of {'/'.join(node)!r} are not of one number along axis "
                f"{scanned[node[-1]]}: {found}"
            )
    return layers, problems
