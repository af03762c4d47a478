"""Under JAX's strictest settings: no dtype and no axis comes from a promotion."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from optax.contrib import MuonDimensionNumbers
from test_contract import ARGUMENTS, EXTRA, FACTORIES, OTHERS, factory

import egd_optax

DTYPES = jnp.bfloat16, jnp.float32, jnp.complex64
SCHEDULES = {
    "inverse_time_decay": egd_optax.inverse_time_decay(np.float32(0.1), np.int32(3)),
    "delayed_onset": egd_optax.delayed_onset(0.1, 3, np.int32(2)),
}


def two_steps(name, tree):
    """Of a transformation; its numbers where they may be schedules."""
    numbers = {"strength", "learning_rate"} & set(ARGUMENTS[name])
    scheduled = dict.fromkeys(numbers, SCHEDULES["inverse_time_decay"])
    results = []
    for arguments in (ARGUMENTS[name], ARGUMENTS[name] | scheduled):
        tx = factory(name)(**arguments)
        updates, state = tx.update(tree, tx.init(tree), tree, **EXTRA)
        results.append(tx.update(updates, state, tree, **EXTRA)[0])
    return results


def use(name, x):
    """What a public function gives for a stack of matrices, in all its branches."""
    fn = factory(name)
    if name in FACTORIES:
        matrices = {str(index): matrix for index, matrix in enumerate(x)}
        return two_steps(
            name, {"stack": x, "wide": x[0].mT, "bias": x[0, 0]} | matrices
        )
    if name in SCHEDULES:
        return SCHEDULES[name](jnp.asarray(2)), SCHEDULES[name](2)
    if name == "polar_by_randomized_svd":
        return [fn(x, rank, key=jax.random.key(0)) for rank in (1, 3)]
    if name == "unit_columns" or name.startswith("polar_"):
        return fn(x), fn(x[0].mT)
    if name == "tabulate_matrices":
        return len(fn(x))
    if name.endswith("_dimension_numbers"):
        kernel = "w" if name.startswith("haiku") else "kernel"
        tree = {} if name.startswith("equinox") else {"linear": {kernel: x[0]}}
        return jax.tree.map(lambda _: 0, fn(tree))
    return fn(x, weight_dimension_numbers=MuonDimensionNumbers(1, 2))


# The stack has three axes, and the default rule says that it skips it.
@pytest.mark.filterwarnings("ignore:leaves of more than two axes")
@pytest.mark.parametrize("name", sorted(OTHERS | set(FACTORIES)))
def test_nothing_is_promoted(name):
    def total(x):
        leaves = jax.tree.leaves(use(name, x))
        real = [jnp.asarray(leaf).real.astype(jnp.float32) for leaf in leaves]
        return sum(map(jnp.sum, real), start=0 * jnp.sum(x).real.astype(jnp.float32))

    with jax.numpy_rank_promotion("raise"), jax.numpy_dtype_promotion("strict"):
        for dtype in DTYPES:
            # Traced, which is where both are refused: nothing is compiled.
            jax.eval_shape(jax.grad(total), jnp.ones((2, 4, 3), dtype))
