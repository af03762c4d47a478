"""A function of stacked matrices applied to all matrices of a tree."""

import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from egd_optax.leaves.layouts import (
    MatrixLayout,
    WeightDimensionNumbers,
    from_matrices,
    matrix_layouts,
    to_matrices,
)
from egd_optax.meshes import keep_shardings, mesh_of

# A stack (batch, rows, columns) to one of the same shape, and to a flag (batch,) for
# each matrix, or none.
MaybeFlagged = Callable[[jax.Array], tuple[jax.Array, jax.Array | None]]


def map_matrices(
    fn: Callable[[jax.Array], jax.Array],
    tree: optax.Updates,
    weight_dimension_numbers: WeightDimensionNumbers = None,
    otherwise: Callable[[jax.Array], jax.Array] = lambda x: x,
) -> optax.Updates:
    """Applies fn to every matrix of a tree, all matrices of one shape in one call.

    ``fn`` maps an array ``(batch, fan_in, fan_out)`` to one of the same shape, matrix
    by matrix, and its result is cast to the dtype of the array. Leaves of the same
    matrix shape and dtype are concatenated along the batch axis. ``otherwise`` is
    applied to leaves that are not matrices.

    The copies that this takes are bounded by the size of the largest stack, beyond what
    ``fn`` itself takes of it: one stack is there at a time, and a leaf that is alone
    in its shape is not copied. (Under ``vmap`` and on several devices it is XLA that
    decides how many stacks are there at once.)
    """

    def without_flags(stack: jax.Array) -> tuple[jax.Array, None]:
        return fn(stack), None

    return map_matrices_and_count(
        without_flags, tree, weight_dimension_numbers, otherwise
    )[0]


def map_leaves(
    fn: Callable[..., jax.Array],
    weight_dimension_numbers: WeightDimensionNumbers,
    tree: optax.Updates,
    *others: Any,
) -> optax.Updates:
    """``fn(layout, leaf, *its like in others)`` of each leaf; None: no matrix."""
    leaves, treedef = jax.tree.flatten(tree)
    layouts = matrix_layouts(tree, weight_dimension_numbers)
    likes = [jax.tree.leaves(other) for other in others]
    mapped = [fn(*each) for each in zip(layouts, leaves, *likes, strict=True)]
    return jax.tree.unflatten(treedef, mapped)


def map_matrices_and_count(
    fn: MaybeFlagged,
    tree: optax.Updates,
    weight_dimension_numbers: WeightDimensionNumbers = None,
    otherwise: Callable[[jax.Array], jax.Array] = lambda x: x,
) -> tuple[optax.Updates, jax.Array]:
    """:func:`map_matrices` for an fn with a flag ``(batch,)`` for each matrix, or None.

    The second result is how many flags are up, int32.
    """
    leaves, treedef = jax.tree.flatten(tree)
    layouts = matrix_layouts(tree, weight_dimension_numbers)
    stacks: dict[Any, list[tuple[int, MatrixLayout]]] = {}
    for index, (leaf, layout) in enumerate(zip(leaves, layouts, strict=True)):
        if layout is None:
            leaves[index] = otherwise(leaf)
        else:
            key = (layout.shape[1:], jnp.asarray(leaf).dtype)
            stacks.setdefault(key, []).append((index, layout))
    done: jax.Array | None = None
    flags_up = jnp.zeros([], jnp.int32)
    for members in stacks.values():
        indices, stack_layouts = zip(*members, strict=True)
        of_leaves = functools.partial(_of_leaves, fn, stack_layouts, done)
        results, (count, done) = keep_shardings(of_leaves, [leaves[i] for i in indices])
        if count is not None:
            flags_up += count
        for index, result in zip(indices, results, strict=True):
            leaves[index] = result
    return jax.tree.unflatten(treedef, leaves), flags_up


def _of_leaves(
    fn: MaybeFlagged,
    layouts: Sequence[MatrixLayout],
    previous: jax.Array | None,
    leaves: list[jax.Array],
) -> tuple[list[jax.Array], tuple[jax.Array | None, jax.Array | None]]:
    """Fn of leaves of one matrix shape; how many flags are up, and an entry of it.

    The entry stands for the stack: the next is begun when it is there.
    """
    parts = list(map(to_matrices, leaves, layouts))
    one_call = functools.partial(_in_one_call, fn)
    if len(parts) == 1 or not _is_planned_by_xla(parts[0]):
        results, count = one_call(parts)
        done = previous
    else:
        results, count = _one_stack_at_a_time(previous, one_call, parts)
        done = _first_entry(results[0])
    shapes = [leaf.shape for leaf in leaves]
    return list(map(from_matrices, results, shapes, layouts)), (count, done)


def _in_one_call(
    fn: MaybeFlagged, parts: list[jax.Array]
) -> tuple[list[jax.Array], jax.Array | None]:
    ends = np.cumsum([len(part) for part in parts])[:-1]
    result, flags = fn(jnp.concatenate(parts))
    result = result.astype(parts[0].dtype)
    count = None if flags is None else jnp.sum(flags, dtype=jnp.int32)
    return jnp.split(result, ends), count


def _is_planned_by_xla(x: jax.Array) -> bool:
    """Within a program for one device; outside, one operation follows another."""
    return isinstance(x, jax.core.Tracer) and mesh_of(x).empty


def _one_stack_at_a_time(
    previous: jax.Array | None,
    fn: Callable[[list[jax.Array]], tuple[list[jax.Array], jax.Array | None]],
    parts: list[jax.Array],
) -> tuple[list[jax.Array], jax.Array]:
    """Fn of parts, begun when the previous stack is done, its buffers freed at its end.

    XLA holds the buffers of a branch only while the branch runs, and cannot know that
    the condition always holds. Optimization barriers it drops before it schedules.
    """
    first = _first_entry(parts[0]) if previous is None else previous
    never = jnp.sum(first.real) < -jnp.inf

    def zeros(parts: list[jax.Array]) -> tuple[list[jax.Array], jax.Array]:
        return jax.tree.map(jnp.zeros_like, parts), jnp.zeros([], jnp.int32)

    def counted(parts: list[jax.Array]) -> tuple[list[jax.Array], jax.Array]:
        results, count = fn(parts)
        return results, jnp.zeros([], jnp.int32) if count is None else count

    # Not within a jit of its own, which an eager vmap would compile at every call.
    return jax.lax.cond(never, zeros, counted, parts)


def _first_entry(stack: jax.Array) -> jax.Array:
    return stack[:1, :1, :1]
