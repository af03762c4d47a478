"""Arrays on a mesh: layouts left to XLA within, given back as they came."""

from collections.abc import Callable
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
from jax.sharding import AbstractMesh, AxisType, Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

T = TypeVar("T")
R = TypeVar("R")


def mesh_of(x: jax.typing.ArrayLike) -> AbstractMesh:
    """The mesh that an array or a tracer lives on, or else that of the context.

    Empty where there is none.
    """
    mesh = jax.typeof(x).sharding.mesh
    return jax.sharding.get_abstract_mesh() if mesh.empty else mesh


def keep_shardings(fn: Callable[[T], tuple[T, R]], tree: T) -> tuple[T, R]:
    """Fn of a tree of arrays, its leaves laid out over the devices as they were.

    What comes beside them is small, and the same on all devices of an explicit mesh.

    On an explicit mesh JAX refuses operations whose layout is not plain from those of
    their operands: products, decompositions, reshapes and concatenations of sharded
    matrices. Within ``fn`` XLA chooses, as on a mesh that is not explicit; a traced
    value that ``fn`` captures has to go through :func:`brought_along` there.
    """
    mesh = _explicit_mesh(tree)
    if mesh is not None:
        result, beside = _left_to_xla(fn, mesh, tree)

        def laid_out(new: jax.Array, old: jax.Array) -> jax.Array:
            # The same on all devices where it was on no mesh.
            spec = jax.typeof(old).sharding.spec
            return jax.reshard(new, NamedSharding(mesh, spec))

        return jax.tree.map(laid_out, result, tree), _copied(beside, mesh)

    # Axes that are not explicit have their layout from the operations they meet.
    # This one changes no value, since NaN in is NaN out.
    def as_before(new: jax.Array, old: jax.Array) -> jax.Array:
        on_auto = AxisType.Auto in mesh_of(old).axis_types
        return jnp.where(jnp.isnan(old), old, new) if on_auto else new

    result, beside = fn(tree)
    return jax.tree.map(as_before, result, tree), beside


def keep_sharding(fn: Callable[[jax.Array], jax.Array], x: jax.Array) -> jax.Array:
    """:func:`keep_shardings` for one array."""
    return keep_shardings(lambda x: (fn(x), None), x)[0]


def same_everywhere(fn: Callable[[T], R], tree: T) -> R:
    """Fn of a tree of arrays, small, and the same on all devices of an explicit mesh.

    Within ``fn`` it is as in :func:`keep_shardings`.
    """
    mesh = _explicit_mesh(tree)
    return fn(tree) if mesh is None else _copied(_left_to_xla(fn, mesh, tree), mesh)


def brought_along(x: Any) -> Any:
    """What a function takes with it to where layouts are left to XLA.

    Numbers, too: those of a factory are all traced under ``optax.inject_hyperparams``,
    and lie on the explicit mesh after the first step.
    """
    mesh, here = jax.typeof(x).sharding.mesh, jax.sharding.get_abstract_mesh()
    return jax.reshard(x, P()) if _explicit_axes(mesh) and mesh != here else x


def on_mesh_of(x: jax.Array, stack: jax.Array) -> jax.Array:
    """A stack of arrays like x, laid out as x where it lies on no mesh yet.

    Read from a checkpoint, it does not.
    """
    mesh = _explicit_mesh(x)
    if mesh is None or not jax.typeof(stack).sharding.mesh.empty:
        return stack
    spec = jax.typeof(x).sharding.spec
    return jax.reshard(stack, NamedSharding(mesh, P(None, *spec)))


def _explicit_mesh(tree: Any) -> AbstractMesh | Mesh | None:
    """With its devices where an array has them: results may lie on one alone.

    That happens to constants outside of jit.
    """
    for leaf in jax.tree.leaves(tree):
        if _explicit_axes(mesh_of(leaf)):
            sharding = getattr(leaf, "sharding", None)
            if isinstance(sharding, NamedSharding):
                return sharding.mesh
            return mesh_of(leaf)
    return None


def _explicit_axes(mesh: AbstractMesh | Mesh) -> tuple[str, ...]:
    return tuple(
        name
        for name, kind in zip(mesh.axis_names, mesh.axis_types, strict=True)
        if kind == AxisType.Explicit
    )


def _left_to_xla(fn: Callable[[T], R], mesh: AbstractMesh | Mesh, tree: T) -> R:
    # As jax.sharding.auto_axes has it, which refuses such constants.
    within = mesh.abstract_mesh.update_axis_types(
        dict.fromkeys(_explicit_axes(mesh), AxisType.Auto)
    )
    with jax.sharding.use_abstract_mesh(within):
        return fn(jax.tree.map(brought_along, tree))


def _copied(tree: T, mesh: AbstractMesh | Mesh) -> T:
    everywhere = NamedSharding(mesh, P())
    return jax.tree.map(lambda x: jax.reshard(x, everywhere), tree)
