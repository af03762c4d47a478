"""The layers of real Equinox modules."""

import inspect

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from optax.contrib import MuonDimensionNumbers

from egd_optax import (
    FusedAxis,
    egd,
    equinox_dimension_numbers,
    polar_by_svd,
    scale_by_egd,
    tabulate_matrices,
)

eqx = pytest.importorskip("equinox")
nn = eqx.nn
KEY = jax.random.key(0)
LINEAR = {"weight": ((1,), (0,))}
CONV = {"weight": ((1, 2, 3), (0,))}
GROUPS = {"weight": ((1, 2, 3), (FusedAxis(0, 2),))}
# Class, what makes one, and the numbers of its matrices.
LAYERS = [
    ("BatchNorm", lambda: nn.BatchNorm(4, "batch", mode="ema"), {}),
    ("Conv", lambda: nn.Conv(2, 4, 6, 3, key=KEY), CONV),
    ("Conv1d", lambda: nn.Conv1d(4, 6, 3, key=KEY), {"weight": ((1, 2), (0,))}),
    ("Conv2d", lambda: nn.Conv2d(4, 6, 3, groups=2, key=KEY), GROUPS),
    ("Conv3d", lambda: nn.Conv3d(4, 6, 3, key=KEY), {"weight": ((1, 2, 3, 4), (0,))}),
    ("ConvTranspose", lambda: nn.ConvTranspose(2, 4, 6, 3, key=KEY), CONV),
    (
        "ConvTranspose1d",
        lambda: nn.ConvTranspose1d(4, 6, 3, key=KEY),
        {"weight": ((1, 2), (0,))},
    ),
    ("ConvTranspose2d", lambda: nn.ConvTranspose2d(4, 6, 3, groups=2, key=KEY), GROUPS),
    (
        "ConvTranspose3d",
        lambda: nn.ConvTranspose3d(4, 6, 3, key=KEY),
        {"weight": ((1, 2, 3, 4), (0,))},
    ),
    ("Embedding", lambda: nn.Embedding(5, 4, key=KEY), {}),
    (
        "GRUCell",
        lambda: nn.GRUCell(3, 4, key=KEY),
        {f"weight_{x}h": ((1,), (FusedAxis(0, 3),)) for x in "ih"},
    ),
    ("GroupNorm", lambda: nn.GroupNorm(2, 4), {}),
    (
        "LSTMCell",
        lambda: nn.LSTMCell(3, 4, key=KEY),
        {f"weight_{x}h": ((1,), (FusedAxis(0, 4),)) for x in "ih"},
    ),
    ("LayerNorm", lambda: nn.LayerNorm((4, 5)), {}),
    ("Linear", lambda: nn.Linear(3, 4, key=KEY), LINEAR),
    (
        "MLP",
        lambda: nn.MLP(3, 4, 5, 2, key=KEY),
        {f"layers/{i}/weight": ((1,), (0,)) for i in range(3)},
    ),
    (
        "MultiheadAttention",
        lambda: nn.MultiheadAttention(2, 6, key=KEY),
        {
            f"{name}_proj/weight": ((1,), (0,))
            for name in ("query", "key", "value", "output")
        },
    ),
    ("PReLU", lambda: nn.PReLU(jnp.ones((2, 3))), {}),
    ("RMSNorm", lambda: nn.RMSNorm((4, 5)), {}),
    (
        "SpectralNorm",
        lambda: nn.SpectralNorm(nn.Linear(3, 4, key=KEY), "weight", key=KEY),
        {"layer/weight": ((1,), (0,))},
    ),
    (
        "WeightNorm",
        lambda: nn.WeightNorm(nn.Linear(3, 4, key=KEY)),
        {"layer/weight": ((1,), (0,))},
    ),
]
WITHOUT_PARAMETERS = {
    *("Dropout", "Identity", "Lambda", "RotaryPositionalEmbedding", "Sequential"),
    *("Shared", "State", "StateIndex", "StatefulLayer"),
}


def matrices(params, **kwargs):
    numbers = jax.tree_util.tree_leaves_with_path(
        equinox_dimension_numbers(params, **kwargs),
        is_leaf=lambda node: node is None or isinstance(node, MuonDimensionNumbers),
    )
    return {
        jax.tree_util.keystr(path, simple=True, separator="/"): tuple(number)
        for path, number in numbers
        if number is not None
    }


def test_every_layer_is_in_the_table():
    layers = {
        name
        for name, member in inspect.getmembers(nn, inspect.isclass)
        if issubclass(member, eqx.Module) and "Pool" not in name
    }
    assert layers - WITHOUT_PARAMETERS == {name for name, _, _ in LAYERS}


@pytest.mark.parametrize(("name", "make", "expected"), LAYERS)
def test_layers(name, make, expected):
    model, _ = nn.make_with_state(make)()
    # As it is, and as an optimizer gets it.
    for params in (model, eqx.filter(model, eqx.is_inexact_array)):
        assert matrices(params) == expected


class Own(nn.Linear):
    """A subclass is what it is made from."""


class Block(eqx.Module):
    linear: Own
    conv: nn.Conv1d
    position: jax.Array

    def __init__(self, key):
        self.linear = Own(3, 4, key=key)
        self.conv = nn.Conv1d(3, 4, 2, key=key)
        self.position = jnp.ones((7, 3))


def test_stacks_of_layers_and_what_is_not_known():
    blocks = eqx.filter_vmap(Block)(jax.random.split(KEY, 5))
    with pytest.raises(ValueError, match=r"(?s)position.*linear\.weight|linear.*posit"):
        equinox_dimension_numbers({"blocks": blocks})
    numbers = matrices(
        {"blocks": blocks}, scanned=("blocks",), named={"position": None}
    )
    assert numbers == {
        "blocks/linear/weight": ((2,), (1,)),
        "blocks/conv/weight": ((2, 3), (1,)),
    }


def test_a_module_is_whitened_and_trained():
    model = nn.MLP(3, 2, 8, 1, key=KEY)
    params, static = eqx.partition(model, eqx.is_inexact_array)
    tx = egd(
        0.1, adam_learning_rate=0.1, weight_dimension_numbers=equinox_dimension_numbers
    )

    @jax.jit
    def step(params, state):
        def loss(params):
            return jnp.sum((eqx.combine(params, static)(jnp.ones(3)) - 1) ** 2)

        value, grads = jax.value_and_grad(loss)(params)
        updates, state = tx.update(grads, state, params)
        return optax.apply_updates(params, updates), state, value

    state = tx.init(params)
    losses = []
    for _ in range(20):
        params, state, loss = step(params, state)
        losses.append(loss)
    assert losses[-1] < 0.1 * losses[0]
    numbers = equinox_dimension_numbers(params)
    assert "1 of 3 × 8" in tabulate_matrices(params, numbers)
    # The tree of numbers is a module, which can be called.
    whiten = scale_by_egd(polar_by_svd, weight_dimension_numbers=numbers)
    updates, _ = whiten.update(params, whiten.init(params))
    values = np.linalg.svd(updates.layers[0].weight, compute_uv=False)
    np.testing.assert_allclose(values, 1, atol=1e-5)
