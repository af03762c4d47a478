"""Every LAPACK call of the library on two threads; test_stacks.py starts this."""
# ruff: noqa: E402

import os

# Before JAX makes its pool of as many threads.
os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:2])

import jax
import numpy as np
import optax

from egd_optax import (
    add_log_det_penalty,
    effective_ranks,
    polar_by_svd,
    scale_by_egd,
    scale_by_randomized_egd,
)

rng = np.random.default_rng(0)
tree = {
    f"{width}": rng.normal(size=(24, 64, width)).astype(np.float32)
    for width in (64, 96, 128, 160)
}
numbers = optax.contrib.MuonDimensionNumbers(1, 2)
tx = optax.chain(
    add_log_det_penalty(0.1, eps=0.1, weight_dimension_numbers=numbers),
    scale_by_randomized_egd(4, weight_dimension_numbers=numbers),
    scale_by_egd(polar_by_svd, weight_dimension_numbers=numbers),
    scale_by_egd(weight_dimension_numbers=numbers),
)


def step(params):
    updates = tx.update(params, tx.init(params), params)[0]
    return updates, effective_ranks(updates, weight_dimension_numbers=numbers)


# On a mesh the stacks of a tree do not wait for each other.
mesh = jax.make_mesh((1,), ("data",), axis_types=(jax.sharding.AxisType.Auto,))
sharding = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec())
placed = jax.device_put(tree, sharding)
alone, seeds = jax.jit(step), jax.jit(jax.vmap(step))
twice = jax.tree.map(lambda x: np.stack([x, 2 * x]), tree)
for _ in range(15):
    for result in (alone(tree), alone(placed), seeds(twice)):
        jax.block_until_ready(result)
print("done")
