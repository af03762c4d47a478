"""Stacks of matrices for LAPACK, which must have them one by one."""

import os
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax


def one_by_one(
    fn: Callable[..., Any], batched: Callable[..., Any] | None = None
) -> Callable[..., Any]:
    """From a function of one matrix (and what belongs to it) one of a stack of them.

    On a CPU ``fn`` gets one at a time, under ``vmap`` too. jaxlib (0.10) shares a
    batched LAPACK call out over the threads of XLA's pool and waits for them in a
    thread of that pool: when as many such calls run at once as it has threads, all wait
    for good. It was seen with four shapes in a tree on two cores. (On very many cores
    the same sharing out corrupts the heap, jax-ml/jax#39292.) Calls for one matrix each
    run side by side without harm.

    Elsewhere ``batched`` gets the whole stack; None takes ``jax.vmap(fn)``.
    """
    at_once = jax.vmap(fn) if batched is None else batched

    def in_turn(*stacks: jax.Array) -> Any:
        return lax.scan(
            lambda _, members: (None, fn(*members)),
            None,
            stacks,
            unroll=_side_by_side(),
        )[1]

    @jax.custom_batching.custom_vmap
    def of_stack(*stacks: jax.Array) -> Any:
        if len(stacks[0]) == 1:
            alone = fn(*(stack[0] for stack in stacks))
            return jax.tree.map(lambda result: result[None], alone)
        return lax.platform_dependent(*stacks, cpu=in_turn, default=at_once)

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


def _side_by_side() -> int:
    """How many matrices of a stack XLA may have in work at once, on a CPU.

    One call alone leaves cores idle, as LAPACK is single-threaded at the sizes of most
    layers. But an OpenBLAS with threads of its own lends them to one call at a time:
    there, calls side by side cost more than they gain.
    """
    threads = os.environ.get("OPENBLAS_NUM_THREADS") or os.environ.get(
        "OMP_NUM_THREADS"
    )
    return 4 if threads == "1" else 1
