"""Runs laid over all devices of all processes."""

import contextlib
import functools
import os
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.experimental import multihost_utils
from jax.sharding import AxisType, Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

# Of every array with one entry a run.
_RUNS = "runs"
# The transformer's answers to all pairs modulo 97 take 1.7 times as long in one block
# as in these, and smaller ones slow nets.
_BLOCK = 1024


def side_by_side() -> None:
    """Has a CPU take as many runs at once as it has cores."""
    own = hasattr(os, "sched_getaffinity")  # those that this process may use
    cores = len(os.sched_getaffinity(0)) if own else os.cpu_count() or 1
    # Too late where JAX has begun already; then they follow each other.
    with contextlib.suppress(RuntimeError):
        jax.config.update("jax_num_cpu_devices", cores)


def is_first() -> bool:
    """Whether this process is the one that reports and writes."""
    return not jax.process_index()


def as_the_first_has(arrays: Any) -> Any:
    """What the first process was given, in all of them."""
    if jax.process_count() == 1:
        return arrays
    return multihost_utils.broadcast_one_to_all(arrays)


def over_devices(fn: Callable[..., Any]) -> Callable[..., Any]:
    """Each device takes its share of the runs.

    ``fn`` maps a tree of arrays with a leading axis of runs, and further arguments that
    all runs share, to such a tree, run by run. There are as many for each device
    (:func:`filled_up`). No collective is within: a device that is done waits for no
    other.
    """
    if jax.device_count() == 1:
        return fn

    def spread(runs: Any, *shared: Any) -> Any:
        return jax.shard_map(
            fn,
            mesh=_mesh(),
            in_specs=(P(_RUNS), *(P() for _ in shared)),
            out_specs=P(_RUNS),
            check_vma=False,
        )(runs, *shared)

    return spread


def filled_up(runs: Any) -> Any:
    """The runs, and the last of them again until each device has as many."""
    count = len(jax.tree.leaves(runs)[0])
    devices = jax.device_count()
    places = np.minimum(np.arange(-(-count // devices) * devices), count - 1)
    if len(places) == count:
        return runs
    return jax.tree.map(lambda x: x[places], runs)


def first(runs: Any, count: int) -> Any:
    """The first so many runs, of several processes on each of them."""
    if jax.process_count() > 1:
        # Of two collectives under way, processes may begin with different ones.
        runs = jax.block_until_ready(_everywhere()(runs))
    if len(jax.tree.leaves(runs)[0]) == count:
        return runs
    return jax.tree.map(lambda x: x[:count], runs)


def on_host(runs: Any, count: int) -> Any:
    """The same as NumPy arrays."""
    return jax.tree.map(np.asarray, first(runs, count))


def over_seeds(fn: Callable[..., Any], members: Any) -> Any:
    """In turn on a CPU, where each then runs its own branches only; else batched."""
    if jax.default_backend() == "cpu":
        return lax.map(fn, members)
    return jax.vmap(fn)(members)


def over_examples(
    fn: Callable[[jax.Array], jax.Array], examples: jax.Array
) -> jax.Array:
    """A block after the other on a CPU, whose caches hold few; else all together."""
    whole = len(examples) // _BLOCK * _BLOCK
    if jax.default_backend() != "cpu" or whole == 0:
        return fn(examples)
    blocks = examples[:whole].reshape(-1, _BLOCK, *examples.shape[1:])
    found = jnp.concatenate(lax.map(fn, blocks))
    if whole == len(examples):
        return found
    return jnp.concatenate([found, fn(examples[whole:])])


@functools.cache
def _mesh() -> Mesh:
    return jax.make_mesh((jax.device_count(),), (_RUNS,), axis_types=(AxisType.Auto,))


@functools.cache
def _everywhere() -> Callable[[Any], Any]:
    return jax.jit(lambda runs: runs, out_shardings=NamedSharding(_mesh(), P()))
