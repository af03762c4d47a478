"""From a function of one matrix to one of arrays ``(..., m, n)``, fit for LAPACK."""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from egd_optax.arguments import check_number
from egd_optax.meshes import brought_along
from egd_optax.polar.lapack_threads import lapack_has_one_thread
from egd_optax.polar.linear_algebra import as_wide, unit_scale


def of_traced_stacks(
    fn: Callable[[jax.Array, jax.Array], tuple[jax.Array, jax.Array]],
    x: jax.Array,
    rcond: jax.typing.ArrayLike | None,
) -> tuple[jax.Array, jax.Array]:
    """Fn of a stack of wide matrices, scaled, and of the rcond of each.

    The second result are its flags ``(...)``, one a matrix. For use inside of jit,
    where ``fn`` may close over what is traced.
    """
    batch = x.shape[:-2]
    if x.size == 0:
        return x, jnp.zeros(batch, bool)
    wide, back = as_wide(x)
    scaled = unit_scale(wide)
    if rcond is None:
        rcond = 4 * float(jnp.finfo(scaled.dtype).eps)
    stack = scaled.reshape(-1, *scaled.shape[-2:])
    rcond = jnp.broadcast_to(jnp.asarray(rcond, stack.real.dtype), len(stack))
    result, failed = fn(stack, rcond)
    return back(result.reshape(scaled.shape)), failed.reshape(batch)


# Outside of jit, loops would be compiled anew at every call.
of_stacks = jax.jit(of_traced_stacks, static_argnums=0)


def checked_rcond(
    rcond: jax.typing.ArrayLike | None,
) -> jax.typing.ArrayLike | None:
    """An argument ``rcond``, refused if it is no number in [0, 1)."""
    if rcond is not None:
        check_number("rcond", rcond, at_least=0, below=1)
        rcond = brought_along(rcond)
    return rcond


def one_at_a_time_on_cpu(
    fn: Callable[..., Any], batched: Callable[..., Any] | None = None
) -> Callable[..., Any]:
    """From a function of one matrix (and what belongs to it) one of a stack of them.

    On a CPU ``fn`` gets one at a time, under ``vmap`` too: batched LAPACK calls can
    stand still for good, and corrupt the heap (jax-ml/jax#39292; docs/architecture.md
    has what was seen). Elsewhere ``batched`` gets the whole stack; None takes
    ``jax.vmap(fn)``.
    """
    at_once = jax.vmap(fn) if batched is None else batched

    # Outside of jit a new function would be compiled anew.
    @functools.cache
    def in_turn(side_by_side: int) -> Callable[..., Any]:
        return lambda *stacks: lax.scan(
            lambda _, members: (None, fn(*members)),
            None,
            stacks,
            unroll=side_by_side,
        )[1]

    @jax.custom_batching.custom_vmap
    def of_stack(*stacks: jax.Array) -> Any:
        # LAPACK is single-threaded at the sizes of most layers, so that one call alone
        # leaves cores idle. But an OpenBLAS with threads of its own lends them to one
        # call at a time: there, calls side by side cost more than they gain.
        side_by_side = 4 if lapack_has_one_thread() else 1
        if len(stacks[0]) == 1:
            alone = fn(*(stack[0] for stack in stacks))
            return jax.tree.map(lambda result: result[None], alone)
        return lax.platform_dependent(
            *stacks, cpu=in_turn(side_by_side), default=at_once
        )

    @of_stack.def_vmap
    def of_stacks(
        axis_size: int, in_batched: list[bool], *stacks: jax.Array
    ) -> tuple[Any, Any]:
        whole = (
            stack if batched else jnp.broadcast_to(stack, (axis_size, *stack.shape))
            for stack, batched in zip(stacks, in_batched, strict=True)
        )
        results = of_stack(*(stack.reshape(-1, *stack.shape[2:]) for stack in whole))
        return (
            jax.tree.map(lambda x: x.reshape(axis_size, -1, *x.shape[1:]), results),
            jax.tree.map(lambda _: True, results),
        )

    return of_stack
