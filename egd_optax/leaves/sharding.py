"""How the matrices of a tree are shared out over the devices of a mesh."""

import itertools
import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import AbstractMesh, AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

from egd_optax.meshes import mesh_of

# A stack (n, rows, columns) to one of the same shape, and a flag (n,) for each matrix.
OfStack = Callable[[jax.Array], tuple[jax.Array, jax.Array]]


def spread_over_devices(fn: OfStack) -> OfStack:
    """The function with each device taking whole matrices of the stack.

    ``fn`` maps matrix by matrix. On the mesh of the stack's sharding, the stack axis
    goes from wherever the matrices are to all devices and back, padded with zeros to
    a multiple of their number; ``fn`` in between communicates nothing. Each way is one
    collective for each mesh axis at most: an all-to-all where the axis splits
    matrices, an all-gather on the way back where it has copies of them.

    Without a mesh, ``fn`` as it is. Under ``vmap`` too: the mapped axis, seeds
    perhaps, has a sharding of its own, which may split the work already.
    """

    def shared_out(stack: jax.Array) -> tuple[jax.Array, jax.Array]:
        mesh = mesh_of(stack)
        free = [
            name
            for name, kind in zip(mesh.axis_names, mesh.axis_types, strict=True)
            if kind != AxisType.Manual and not _is_mapped(mesh, name)
        ]
        if not free:
            return fn(stack)
        axes = _axes_to_spread_over(mesh, free, len(stack))
        devices = math.prod(mesh.shape[axis] for axis in axes)

        def lay_out(x: jax.Array, *spec: Any) -> jax.Array:
            sharding = NamedSharding(mesh, P(*spec))
            return jax.lax.with_sharding_constraint(x, sharding)

        shares = jax.shard_map(
            fn,
            mesh=mesh,
            in_specs=P(axes),
            out_specs=P(axes),
            axis_names=set(free),
            # The loops of a whitening carry no mark of where they vary.
            check_vma=False,
        )
        # Axis by axis: XLA would take two at once through a copy of the whole stack
        # on every device. How the matrices are laid out meanwhile is left to it.
        within = [P.UNCONSTRAINED] * 2
        stages = [(axes[:count] or None, *within) for count in range(len(axes))]
        x = jnp.pad(stack, ((0, -len(stack) % devices), (0, 0), (0, 0)))
        for stage in stages:
            x = lay_out(x, *stage)
        x, flags = shares(lay_out(x, axes))
        for stage in reversed(stages):
            x = lay_out(x, *stage)
        return x[: len(stack)], flags[: len(stack)]

    on_devices = jax.custom_batching.custom_vmap(shared_out)

    @on_devices.def_vmap
    def mapped(
        axis_size: int, in_batched: list[bool], stack: jax.Array
    ) -> tuple[tuple[jax.Array, jax.Array], tuple[bool, bool]]:
        del axis_size, in_batched
        return jax.vmap(fn)(stack), (True, True)

    # JAX differentiates no custom_vmap.
    on_mesh = jax.custom_jvp(on_devices)

    @on_mesh.defjvp
    def derivative(primals: Any, tangents: Any) -> Any:
        return jax.jvp(shared_out, primals, tangents)

    # Outside of jit, what runs on the devices would be compiled anew at every call.
    compiled_once = jax.jit(on_mesh)
    return lambda stack: (fn if mesh_of(stack).empty else compiled_once)(stack)


def _is_mapped(mesh: AbstractMesh, axis: str) -> bool:
    """Whether a ``vmap`` around maps over what lies on an explicit axis.

    ``shard_map`` does not take that axis, and JAX tells it in no other way.
    """
    nothing = jax.shard_map(
        lambda: None, mesh=mesh, in_specs=(), out_specs=None, axis_names={axis}
    )
    try:
        jax.eval_shape(nothing)
    except ValueError:
        return True
    return False


def _axes_to_spread_over(
    mesh: AbstractMesh, names: list[str], count: int
) -> tuple[str, ...]:
    """Those with the fewest matrices on a device; of these, with the fewest devices.

    A single matrix is not spread at all. The minor axis comes first: it is the one
    that a dimension split by several axes can lose without changing place.
    """
    choices = itertools.chain.from_iterable(
        itertools.combinations(reversed(names), length)
        for length in range(len(names) + 1)
    )

    def cost(axes: tuple[str, ...]) -> tuple[int, int]:
        devices = math.prod(mesh.shape[axis] for axis in axes)
        return math.ceil(count / devices), devices

    return min(choices, key=cost)
