"""Every layer with parameters that Flax ships, found in its public modules.

Each matrix goes from what the layer's forward pass contracts to what it puts out.
"""

import inspect

import flax.linen as nn
import jax
import jax.numpy as jnp
import pytest
from flax import nnx
from optax.contrib import MuonDimensionNumbers

from egd_optax import FusedAxis, flax_dimension_numbers

IMAGE, SEQUENCE = (1, 3, 3, 2), (1, 3, 6)
DENSE = {"kernel": ((0,), (1,))}
CONV = {"kernel": ((0, 1, 2), (3,))}
TRANSPOSED = {"kernel": ((0, 1, 3), (2,))}
GENERAL = {"kernel": ((0, 1), (2, 3))}
ATTENTION = {
    **{f"{name}/kernel": ((0,), (1, 2)) for name in ("query", "key", "value")},
    "out/kernel": ((0, 1), (2,)),
}
NOTHING = {}


def each(names, path="{}/kernel", axes=((0,), (1,))):
    return {path.format(name): axes for name in names}


def gates(count, *names):
    return each(names, axes=((0,), (FusedAxis(1, count),)))


# Class, what makes one or one, Linen's input, and the numbers of its matrices.
NNX = [
    ("BatchNorm", lambda r: nnx.BatchNorm(4, rngs=r), NOTHING),
    (
        "Bidirectional",
        lambda r: nnx.Bidirectional(
            nnx.RNN(nnx.GRUCell(6, 4, rngs=r)),
            nnx.RNN(nnx.GRUCell(6, 4, rngs=r)),
            rngs=r,
        ),
        gates(
            3,
            *(
                f"{way}_rnn/cell/dense_{x}"
                for way in ("forward", "backward")
                for x in "ih"
            ),
        ),
    ),
    ("Conv", lambda r: nnx.Conv(2, 4, (3, 3), rngs=r), CONV),
    ("Conv", lambda r: nnx.Conv(2, 4, (3,), rngs=r), {"kernel": ((0, 1), (2,))}),
    ("ConvTranspose", lambda r: nnx.ConvTranspose(2, 4, (3, 3), rngs=r), CONV),
    (
        "ConvTranspose",
        lambda r: nnx.ConvTranspose(2, 4, (3, 3), transpose_kernel=True, rngs=r),
        TRANSPOSED,
    ),
    ("Einsum", lambda r: nnx.Einsum("abc,cd->abd", (6, 4), (4,), rngs=r), DENSE),
    (
        "Einsum",
        lambda r: nnx.Einsum("abc,cde->abde", (6, 4, 2), (4, 2), rngs=r),
        {"kernel": ((0,), (1, 2))},
    ),
    ("Embed", lambda r: nnx.Embed(5, 4, rngs=r), NOTHING),
    ("GRUCell", lambda r: nnx.GRUCell(6, 4, rngs=r), gates(3, "dense_h", "dense_i")),
    ("GroupNorm", lambda r: nnx.GroupNorm(4, 2, rngs=r), NOTHING),
    ("InstanceNorm", lambda r: nnx.InstanceNorm(4, rngs=r), NOTHING),
    (
        "LSTMCell",
        lambda r: nnx.LSTMCell(6, 4, rngs=r),
        each(("if_", "ig", "ii", "io", "hf", "hg", "hi", "ho")),
    ),
    ("LayerNorm", lambda r: nnx.LayerNorm(4, rngs=r), NOTHING),
    ("Linear", lambda r: nnx.Linear(6, 4, rngs=r), DENSE),
    (
        "LinearGeneral",
        lambda r: nnx.LinearGeneral((3, 6), (2, 5), axis=(-2, -1), rngs=r),
        GENERAL,
    ),
    (
        "LinearGeneral",
        lambda r: nnx.LinearGeneral((6,), (5,), batch_axis={0: 3}, rngs=r),
        {"kernel": ((1,), (2,))},
    ),
    ("LoRA", lambda r: nnx.LoRA(6, 2, 4, rngs=r), each(("lora_a", "lora_b"), "{}")),
    (
        "LoRALinear",
        lambda r: nnx.LoRALinear(6, 4, lora_rank=2, rngs=r),
        {**DENSE, **each(("lora_a", "lora_b"), "lora/{}")},
    ),
    (
        "MultiHeadAttention",
        lambda r: nnx.MultiHeadAttention(2, 6, decode=False, normalize_qk=True, rngs=r),
        ATTENTION,
    ),
    (
        "OptimizedLSTMCell",
        lambda r: nnx.OptimizedLSTMCell(6, 4, rngs=r),
        gates(4, "dense_h", "dense_i"),
    ),
    ("PReLU", lambda r: nnx.PReLU(), NOTHING),
    ("RMSNorm", lambda r: nnx.RMSNorm(4, rngs=r), NOTHING),
    (
        "RNN",
        lambda r: nnx.RNN(nnx.SimpleCell(6, 4, rngs=r), rngs=r),
        each(("dense_h", "dense_i"), "cell/{}/kernel"),
    ),
    (
        "SimpleCell",
        lambda r: nnx.SimpleCell(6, 6, rngs=r),
        each(("dense_h", "dense_i")),
    ),
    (
        "SpectralNorm",
        lambda r: nnx.SpectralNorm(nnx.Linear(6, 4, rngs=r), rngs=r),
        {"layer_instance/kernel": ((0,), (1,))},
    ),
    (
        "WeightNorm",
        lambda r: nnx.WeightNorm(nnx.Linear(6, 4, rngs=r), rngs=r),
        {"layer_instance/kernel": ((0,), (1,))},
    ),
]
GATES = [f"{x}{gate}" for x in "hi" for gate in "figo"]
LINEN = [
    ("BatchNorm", nn.BatchNorm(True), SEQUENCE, NOTHING),
    (
        "Bidirectional",
        nn.Bidirectional(nn.RNN(nn.SimpleCell(4)), nn.RNN(nn.SimpleCell(4))),
        SEQUENCE,
        each(f"{way}_rnn/cell/{x}" for way in ("forward", "backward") for x in "ih"),
    ),
    ("Conv", nn.Conv(4, (3, 3)), IMAGE, CONV),
    (
        "ConvLSTMCell",
        nn.RNN(nn.ConvLSTMCell(4, (3, 3))),
        (1, *IMAGE),
        each(("hh", "ih"), "cell/{}/kernel", axes=((0, 1, 2), (FusedAxis(3, 4),))),
    ),
    ("ConvLocal", nn.ConvLocal(4, (3, 2)), IMAGE, {"kernel": ((2,), (3,))}),
    ("ConvTranspose", nn.ConvTranspose(4, (3, 3)), IMAGE, CONV),
    (
        "ConvTranspose",
        nn.ConvTranspose(4, (3, 3), transpose_kernel=True),
        IMAGE,
        TRANSPOSED,
    ),
    ("Dense", nn.Dense(4), SEQUENCE, DENSE),
    ("DenseGeneral", nn.DenseGeneral((2, 5), axis=(-2, -1)), SEQUENCE, GENERAL),
    (
        "DenseGeneral",
        nn.DenseGeneral(5, axis=-1, batch_dims=(0,)),
        (3, 2, 6),
        {"kernel": ((1,), (2,))},
    ),
    ("Einsum", nn.Einsum((6, 4), "abc,cd->abd"), SEQUENCE, DENSE),
    ("Embed", nn.Embed(5, 4), None, NOTHING),
    (
        "GRUCell",
        nn.RNN(nn.GRUCell(4)),
        SEQUENCE,
        each((f"{x}{gate}" for x in "hi" for gate in "nrz"), "cell/{}/kernel"),
    ),
    ("GroupNorm", nn.GroupNorm(2), SEQUENCE, NOTHING),
    ("InstanceNorm", nn.InstanceNorm(), SEQUENCE, NOTHING),
    ("LSTMCell", nn.RNN(nn.LSTMCell(4)), SEQUENCE, each(GATES, "cell/{}/kernel")),
    ("LayerNorm", nn.LayerNorm(feature_axes=(-2, -1)), SEQUENCE, NOTHING),
    (
        "MGUCell",
        nn.RNN(nn.MGUCell(4)),
        SEQUENCE,
        each(("hf", "hn", "if", "in"), "cell/{}/kernel"),
    ),
    ("MultiHeadAttention", nn.MultiHeadAttention(2), SEQUENCE, ATTENTION),
    (
        "MultiHeadDotProductAttention",
        nn.MultiHeadDotProductAttention(2, normalize_qk=True, use_bias=False),
        SEQUENCE,
        ATTENTION,
    ),
    (
        "OptimizedLSTMCell",
        nn.RNN(nn.OptimizedLSTMCell(4)),
        SEQUENCE,
        each(GATES, "cell/{}/kernel"),
    ),
    ("PReLU", nn.PReLU(), SEQUENCE, NOTHING),
    ("RMSNorm", nn.RMSNorm(), SEQUENCE, NOTHING),
    ("RNN", nn.RNN(nn.SimpleCell(4)), SEQUENCE, each("hi", "cell/{}/kernel")),
    ("SelfAttention", nn.SelfAttention(2), SEQUENCE, ATTENTION),
    ("SimpleCell", nn.RNN(nn.SimpleCell(4)), SEQUENCE, each("hi", "cell/{}/kernel")),
    (
        "WeightNorm",
        nn.WeightNorm(nn.DenseGeneral((2, 5)), feature_axes=(-2, -1)),
        SEQUENCE,
        {"layer_instance/kernel": ((0,), (1, 2))},
    ),
]
LINEN.append(
    (
        "SpectralNorm",
        nn.SpectralNorm(nn.Dense(4)),
        SEQUENCE,
        {"layer_instance/kernel": ((0,), (1,))},
    )
)
WITHOUT_PARAMETERS = {
    *("Dict", "Dropout", "List", "Module", "RNNCellBase", "RoPE", "Sequential"),
    # Scales of half-precision products, in a collection of their own.
    *("Fp8DirectDotGeneralOp", "Fp8DotGeneral", "Fp8DotGeneralOp", "Fp8Einsum"),
    "NANOOFp8DotGeneralOp",
}


@pytest.mark.parametrize(("library", "table"), [(nnx, NNX), (nn, LINEN)])
def test_every_layer_is_in_the_table(library, table):
    layers = {
        name
        for name, member in inspect.getmembers(library, inspect.isclass)
        if issubclass(member, library.Module)
    }
    assert layers - WITHOUT_PARAMETERS == {row[0] for row in table}


def matrices(params):
    """Numbers of each matrix by its path, and the names of all else."""
    numbers = jax.tree_util.tree_leaves_with_path(
        flax_dimension_numbers(params),
        is_leaf=lambda node: node is None or isinstance(node, MuonDimensionNumbers),
    )
    return {
        jax.tree_util.keystr(path, simple=True, separator="/"): tuple(number)
        for path, number in numbers
        if number is not None
    }


@pytest.mark.parametrize(("name", "make", "expected"), NNX)
def test_layers_of_nnx(name, make, expected):
    model = nnx.eval_shape(lambda: make(nnx.Rngs(0)))
    params = nnx.state(model, nnx.Param)
    assert jax.tree.leaves(params)
    assert matrices(params) == expected


@pytest.mark.filterwarnings("ignore:SelfAttention will be deprecated")
@pytest.mark.parametrize(("name", "layer", "shape", "expected"), LINEN)
def test_layers_of_linen(name, layer, shape, expected):
    x = jnp.ones(shape) if shape else jnp.ones(3, int)
    options = {"update_stats": False} if name == "SpectralNorm" else {}
    variables = jax.eval_shape(
        lambda key: layer.init(key, x, **options), jax.random.key(0)
    )
    # With the state of normalizations: no matrix of theirs is one to be whitened.
    numbers = matrices(variables)
    assert numbers == {f"params/{path}": axes for path, axes in expected.items()}
