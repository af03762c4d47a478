"""The layers of real Haiku models."""

import inspect

import jax
import jax.numpy as jnp
import pytest
from optax.contrib import MuonDimensionNumbers

from egd_optax import FusedAxis, haiku_dimension_numbers

hk = pytest.importorskip("haiku")
VECTORS, IMAGES = (2, 6), (1, 8, 8, 4)


def conv(axes):
    return {"w": (tuple(range(axes - 1)), (axes - 1,))}


def transposed(axes):
    return {"w": ((*range(axes - 2), axes - 1), (axes - 2,))}


def images(axes):
    return (1, *[8] * axes, 4)


def each(names, axes=((0,), (1,))):
    return dict.fromkeys(names, axes)


def core(make):
    """One step of a recurrent core."""
    return lambda x: make()(x, make().initial_state(len(x)))


def lstm(axes, make):
    gates = (tuple(range(axes + 1)), (FusedAxis(axes + 1, 4),))
    paths = [f"{name}/w" for name in ("hidden_to_hidden", "input_to_hidden")]
    return core(make), images(axes), each(paths, gates)


# Class, what it does to an input of a shape, and the numbers of its matrices by the
# path below the module.
LAYERS = [
    ("BatchNorm", lambda x: hk.BatchNorm(True, True, 0.9)(x, True), images(2), {}),
    ("Bias", lambda x: hk.Bias()(x), images(2), {}),
    ("Conv1D", lambda x: hk.Conv1D(6, 3)(x), images(1), conv(3)),
    ("Conv1DLSTM", *lstm(1, lambda: hk.Conv1DLSTM((8,), 5, 3))),
    (
        "Conv1DTranspose",
        lambda x: hk.Conv1DTranspose(6, 3)(x),
        images(1),
        transposed(3),
    ),
    ("Conv2D", lambda x: hk.Conv2D(6, 3, data_format="NCHW")(x), images(2), conv(4)),
    ("Conv2DLSTM", *lstm(2, lambda: hk.Conv2DLSTM((8, 8), 5, 3))),
    (
        "Conv2DTranspose",
        lambda x: hk.Conv2DTranspose(6, 3)(x),
        images(2),
        transposed(4),
    ),
    # By its bias alone, whatever its name.
    (
        "Conv2DTranspose",
        lambda x: hk.Conv2DTranspose(6, 3, name="up")(x),
        images(2),
        transposed(4),
    ),
    ("Conv3D", lambda x: hk.Conv3D(6, 3, with_bias=False)(x), images(3), conv(5)),
    ("Conv3DLSTM", *lstm(3, lambda: hk.Conv3DLSTM((8, 8, 8), 5, 3))),
    (
        "Conv3DTranspose",
        lambda x: hk.Conv3DTranspose(6, 3)(x),
        images(3),
        transposed(5),
    ),
    ("ConvND", lambda x: hk.ConvND(2, 6, 3, name="stem")(x), images(2), conv(4)),
    (
        "ConvNDTranspose",
        lambda x: hk.ConvNDTranspose(2, 6, 3)(x),
        images(2),
        transposed(4),
    ),
    ("DepthwiseConv1D", lambda x: hk.DepthwiseConv1D(2, 3)(x), images(1), conv(3)),
    ("DepthwiseConv2D", lambda x: hk.DepthwiseConv2D(2, 3)(x), images(2), conv(4)),
    ("DepthwiseConv3D", lambda x: hk.DepthwiseConv3D(2, 3)(x), images(3), conv(5)),
    ("Embed", lambda x: hk.Embed(5, 4)(x.astype(int)), VECTORS, {}),
    (
        "GRU",
        core(lambda: hk.GRU(4)),
        VECTORS,
        each(("w_h", "w_i"), ((0,), (FusedAxis(1, 3),))),
    ),
    ("GroupNorm", lambda x: hk.GroupNorm(2)(x), images(2), {}),
    ("InstanceNorm", lambda x: hk.InstanceNorm(True, True)(x), images(2), {}),
    (
        "LSTM",
        core(lambda: hk.LSTM(4)),
        VECTORS,
        {"linear/w": ((0,), (FusedAxis(1, 4),))},
    ),
    ("LayerNorm", lambda x: hk.LayerNorm((-2, -1), True, True)(x), images(2), {}),
    ("Linear", lambda x: hk.Linear(4)(x), VECTORS, each("w")),
    (
        "MultiHeadAttention",
        lambda x: hk.MultiHeadAttention(2, 3, w_init=jnp.zeros)(x, x, x),
        (1, 5, 6),
        each(f"{name}/w" for name in ("query", "key", "value", "linear")),
    ),
    ("RMSNorm", lambda x: hk.RMSNorm(-1)(x), VECTORS, {}),
    (
        "SeparableDepthwiseConv2D",
        lambda x: hk.SeparableDepthwiseConv2D(2, 3)(x),
        images(2),
        {f"depthwise_conv2_d{end}/w": ((0, 1, 2), (3,)) for end in ("", "_1")},
    ),
    (
        "VanillaRNN",
        core(lambda: hk.VanillaRNN(4)),
        VECTORS,
        each(("linear/w", "linear_1/w")),
    ),
    (
        "MLP",
        lambda x: hk.nets.MLP([5, 4])(x),
        VECTORS,
        each(("linear_0/w", "linear_1/w")),
    ),
    (
        "VectorQuantizer",
        lambda x: hk.nets.VectorQuantizer(6, 5, 0.25)(x, True)["loss"],
        VECTORS,
        {},
    ),
]
WITHOUT_PARAMETERS = {
    *("AvgPool", "DeepRNN", "EMAParamsTree", "ExponentialMovingAverage", "Flatten"),
    *("IdentityCore", "MaxPool", "Module", "RNNCore", "ResetCore", "Reshape"),
    *("SNParamsTree", "Sequential", "SpectralNorm"),
}


def test_every_layer_is_in_the_table():
    layers = {
        name
        for name, member in inspect.getmembers(hk, inspect.isclass)
        if issubclass(member, hk.Module)
    }
    nets = {"MLP", "VectorQuantizer"}
    assert layers - WITHOUT_PARAMETERS | nets == {row[0] for row in LAYERS}


def params_of(apply, shape):
    init = hk.transform_with_state(apply).init
    return jax.eval_shape(init, jax.random.key(0), jnp.ones(shape))[0]


def matrices(params, **kwargs):
    """Numbers of each matrix, by its path below the outermost module."""
    numbers = jax.tree_util.tree_leaves_with_path(
        haiku_dimension_numbers(params, **kwargs),
        is_leaf=lambda node: node is None or isinstance(node, MuonDimensionNumbers),
    )
    paths = [
        jax.tree_util.keystr(path, simple=True, separator="/") for path, _ in numbers
    ]
    return {
        path.replace("/~/", "/").split("/", maxsplit=1)[1]: tuple(number)
        for path, (_, number) in zip(paths, numbers, strict=True)
        if number is not None
    }


@pytest.mark.parametrize(("name", "apply", "shape", "expected"), LAYERS)
def test_layers(name, apply, shape, expected):
    assert matrices(params_of(apply, shape)) == expected


def test_layer_stacks_are_known():
    def apply(x):
        return hk.experimental.layer_stack(3)(lambda x: hk.Linear(6)(x))(x)

    assert matrices(params_of(apply, VECTORS)) == {"linear/w": ((1,), (2,))}


@pytest.mark.parametrize(
    ("name", "outputs", "parts"), [("lstm_block", 16, 1), ("lstm_2", 16, 4)]
)
def test_only_an_lstm_is_taken_for_one(name, outputs, parts):
    params = {f"net/~/{name}/linear": {"w": jnp.ones((10, outputs))}}
    (number,) = matrices(params).values()
    assert number == ((0,), (FusedAxis(1, parts) if parts > 1 else 1,))


def test_what_is_not_known_is_refused_and_can_be_said():
    params = {"net": {"w": jnp.ones((3, 4, 5)), "mixing": jnp.ones((4, 4))}}
    with pytest.raises(ValueError, match=r"(?s)\['mixing'\].*\['w'\].*named={'net/m"):
        haiku_dimension_numbers(params)
    numbers = matrices(params, scanned={"net": 0}, named={"net/mixing": None})
    assert numbers == {"w": ((1,), (2,))}
    numbers = matrices({"qkv": {"w": jnp.ones((4, 12))}}, fused={"qkv/w": 3})
    assert numbers == {"w": ((0,), (FusedAxis(1, 3),))}
