"""The names and shapes of real Flax modules, NNX and Linen."""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx
from flax_models import linen_params, nnx_params
from optax.contrib import MuonDimensionNumbers
from reference import polar

from egd_optax import (
    add_log_det_penalty,
    add_nuclear_norm_penalty,
    egd,
    flax_dimension_numbers,
    polar_by_svd,
    scale_by_egd,
)


def by_path(params, **kwargs):
    """Path and (input axes, output axes), or None, of each leaf."""
    numbers = flax_dimension_numbers(params, **kwargs)
    leaves = jax.tree_util.tree_leaves_with_path(
        numbers, is_leaf=lambda x: x is None or isinstance(x, MuonDimensionNumbers)
    )
    return {
        jax.tree_util.keystr(path, simple=True, separator="/"): leaf and tuple(leaf)
        for path, leaf in leaves
    }


ATTENTION = {
    **{f"{name}/kernel": ((0,), (1, 2)) for name in ("query", "key", "value")},
    "out/kernel": ((0, 1), (2,)),
}


def shifted(numbers):
    return numbers and tuple(tuple(axis + 1 for axis in axes) for axes in numbers)


def expected(attention, dense, norm, **others):
    block = {f"{attention}/{path}": axes for path, axes in ATTENTION.items()}
    block |= {f"{attention}/{name}/bias": None for name in ("query", "key", "value")}
    block |= {
        f"{attention}/out/bias": None,
        f"{norm}/scale": None,
        f"{norm}/bias": None,
    }
    for name in dense:
        block |= {f"{name}/kernel": ((0,), (1,)), f"{name}/bias": None}
    return {
        **{f"last/{path}": axes for path, axes in block.items()},
        **{f"blocks/{path}": shifted(axes) for path, axes in block.items()},
        **others,
    }


@pytest.mark.parametrize(
    ("params", "names"),
    [
        (
            nnx_params,
            expected(
                "attention",
                ("mlp/0", "mlp/1"),
                "norm",
                **{"embed/embedding": None, "head/kernel": ((0,), (1,))},
                **{"conv/kernel": ((0, 1), (2,)), "conv/bias": None},
            ),
        ),
        (
            linen_params,
            expected(
                "MultiHeadDotProductAttention_0",
                ("Dense_0", "Dense_1"),
                "LayerNorm_0",
                **{"Embed_0/embedding": None, "Dense_0/kernel": ((0,), (1,))},
                **{"Conv_0/kernel": ((0, 1), (2,)), "Conv_0/bias": None},
            ),
        ),
    ],
)
def test_every_leaf_of_a_model_is_named(params, names):
    assert by_path(params(), scanned=("blocks",)) == names


@pytest.mark.parametrize("params", [nnx_params, linen_params])
def test_each_layer_is_whitened_by_itself(params, rng):
    numbers = functools.partial(flax_dimension_numbers, scanned=("blocks",))
    grads = jax.tree.map(
        lambda p: jnp.asarray(rng.normal(size=p.shape), jnp.float32), params()
    )
    tx = scale_by_egd(polar_by_svd, weight_dimension_numbers=numbers)
    updates, _ = jax.jit(tx.update)(grads, tx.init(grads))
    grads, updates = (
        {
            jax.tree_util.keystr(path, simple=True, separator="/").lower(): leaf
            for path, leaf in jax.tree_util.tree_leaves_with_path(tree)
        }
        for tree in (nnx.as_pure(grads), nnx.as_pure(updates))
    )
    for path, g in grads.items():
        if "kernel" not in path:
            np.testing.assert_array_equal(updates[path], g)
        elif "attention" in path:
            # Heads are as wide together as the embedding: 6.
            np.testing.assert_allclose(
                updates[path].reshape(-1, 6, 6), polar(g.reshape(-1, 6, 6)), atol=1e-4
            )
        elif "conv" in path:
            np.testing.assert_allclose(
                updates[path].reshape(18, 4), polar(g.reshape(18, 4)), atol=1e-4
            )
        else:
            np.testing.assert_allclose(updates[path], polar(g), atol=1e-4)


@pytest.mark.parametrize("as_tree", [True, False])
@pytest.mark.parametrize(
    "make",
    [
        lambda numbers: egd(0.1, weight_dimension_numbers=numbers),
        lambda numbers: optax.contrib.muon(0.1, muon_weight_dimension_numbers=numbers),
    ],
)
def test_one_tree_of_numbers_fits_boxed_and_plain_parameters(make, as_tree):
    # nnx.Optimizer hands boxed parameters to init and plain ones to update.
    boxed = nnx_params()
    plain = nnx.as_pure(boxed)
    numbers = functools.partial(flax_dimension_numbers, scanned=("blocks",))
    assert numbers(boxed) == numbers(plain)
    tx = make(numbers(boxed) if as_tree else numbers)
    state = nnx.as_pure(jax.eval_shape(tx.init, boxed))
    updates, _ = jax.eval_shape(tx.update, plain, state, plain)
    assert jax.tree.map(jnp.shape, updates) == jax.tree.map(jnp.shape, plain)


def test_partitioned_parameters_are_unboxed():
    init = nn.with_partitioning(nn.initializers.lecun_normal(), ("in", "out"))
    params = nn.Dense(3, kernel_init=init).init(jax.random.key(0), jnp.ones((1, 2)))
    assert by_path(params) == {
        "params/kernel": ((0,), (1,)),
        "params/bias": None,
    }


@pytest.mark.parametrize(
    ("window", "axes"),
    [((3,), (0, 1)), ((3, 3), (0, 1, 2)), ((2, 3, 3), (0, 1, 2, 3))],
)
def test_convolutions_of_every_rank(window, axes):
    conv = nn.Conv(4, window, use_bias=False)
    params = conv.init(jax.random.key(0), jnp.ones((1, *[5] * len(window), 2)))
    numbers = by_path({"Conv_0": params["params"]})
    assert numbers == {"Conv_0/kernel": (axes, (len(axes),))}


@pytest.mark.parametrize(
    ("params", "message"),
    [
        # A stack of layers that was not declared.
        (
            {"blocks": {"up": {"kernel": (3, 2, 2)}}},
            r"\['blocks'\]\['up'\]\['kernel'\]",
        ),
        ({"query": {"kernel": (3, 4, 2, 2)}}, r"\(3, 4, 2, 2\).*named={'query/kernel'"),
        # A stack of 2 layers, or from 2 inputs to (2, 3) outputs.
        (
            {"up": {"kernel": (2, 2, 3), "bias": (2, 3)}},
            r"\['up'\]\['kernel'\].*a bias of \(2, 3\)",
        ),
        ({"conv": {"kernel": (3, 2, 2), "bias": (5,)}}, r"a bias of \(5,\)"),
        ({"up": {"kernel": (3, 2), "bias": (3,)}}, r"a bias of \(3,\)"),
        # Declared, but not stacked.
        ({"scan": {"kernel": (4, 2)}}, r"one layer is \(2,\)"),
        ({"kernel": (3,)}, r"\['kernel'\]"),
        ({"positions": (7, 4)}, r"\['positions'\] of shape \(7, 4\)"),
        ({"stem": {"kernel": (3, 3, 1, 8)}}, "named={'stem/kernel'"),
    ],
)
def test_what_is_not_known_is_refused_by_its_path(params, message):
    params = jax.tree.map(jnp.zeros, params, is_leaf=lambda x: isinstance(x, tuple))
    with pytest.raises(ValueError, match=f"(?s){message}"):
        flax_dimension_numbers(params, scanned=("scan",))


def test_all_that_is_not_known_is_refused_at_once_with_what_would_do():
    einsum = {"kernel": (2, 6, 3)}
    params = {
        "layers": [{"q": einsum, "0": {"kernel": (6, 6)}} for _ in range(2)],
        "stem": {"0": {"kernel": (3, 3, 1, 8)}},
        "positions": (7, 4),
        "stack": {"up": {"kernel": (5, 6, 4), "bias": (4,)}},
    }
    params = jax.tree.map(jnp.zeros, params, is_leaf=lambda x: isinstance(x, tuple))
    with pytest.raises(ValueError, match="no rule fits") as error:
        flax_dimension_numbers(params)
    message = str(error.value)
    for path in ("['layers'][0]['q']", "['layers'][1]['q']", "['stem']", "['positions"):
        assert path in message
    assert "['up']" not in message
    # Ready to paste. No shorter end of the stem's path is its own.
    named = eval(message[message.rindex("named=") + len("named=") :])
    assert named == {
        "q/kernel": MuonDimensionNumbers(1, 2),
        "stem/0/kernel": MuonDimensionNumbers((0, 1, 2), 3),
        "positions": None,
    }
    numbers = by_path(params, named=named)
    assert numbers["layers/1/q/kernel"] == (1, 2)
    assert numbers["layers/1/0/kernel"] == ((0,), (1,))


def test_the_unknown_can_be_named():
    params = {
        "stem": {"kernel": jnp.zeros((3, 3, 1, 8))},
        "top": {"kernel": jnp.zeros((4, 2))},
        "positions": jnp.zeros((7, 4)),
        "embedding": jnp.zeros((7, 4)),
    }
    numbers = by_path(
        params,
        named={
            "kernel": None,
            "stem/kernel": MuonDimensionNumbers((0, 1, 2), (3,)),
            "positions": None,
            "embedding": MuonDimensionNumbers((0,), (1,)),
        },
    )
    assert numbers == {
        "stem/kernel": ((0, 1, 2), (3,)),
        "top/kernel": None,
        "positions": None,
        "embedding": ((0,), (1,)),
    }


def test_attention_biases_are_not_taken_for_matrices():
    # They have two axes, so that the default rule of the library would whiten them.
    attention = nn.MultiHeadDotProductAttention(num_heads=2)
    params = attention.init(jax.random.key(0), jnp.ones((1, 3, 4)))["params"]
    assert params["query"]["bias"].ndim == 2
    assert flax_dimension_numbers(params)["query"]["bias"] is None


def told_by_its_bias():
    return {
        "stem": {"kernel": jnp.ones((3, 3, 2, 4)), "bias": jnp.ones(4)},
        "head": {"kernel": jnp.ones((4, 2)), "bias": jnp.ones(2)},
    }


def test_a_bias_that_a_mask_takes_out_has_told_its_kernel_before():
    params = told_by_its_bias()
    assert by_path(params, named={"bias": None}) == by_path(params)
    updates = [
        jax.eval_shape(lambda p: tx.update(p, tx.init(p), p)[0], params)
        for numbers in (flax_dimension_numbers, flax_dimension_numbers(params))
        for tx in [egd(0.1, weight_dimension_numbers=numbers)]
    ]
    assert updates[0] == updates[1]


def test_without_the_bias_the_tree_of_numbers_is_asked_for():
    params = told_by_its_bias()
    kernels = jax.tree.map(lambda leaf: leaf.ndim > 1, params)

    def update(numbers):
        inner = scale_by_egd(polar_by_svd, weight_dimension_numbers=numbers)
        tx = optax.masked(inner, kernels)
        return jax.eval_shape(lambda p: tx.update(p, tx.init(p), p)[0], params)

    with pytest.raises(ValueError, match=r"(?s)\['stem'\].*give the tree of all"):
        update(flax_dimension_numbers)
    update(flax_dimension_numbers(params))


TOLD_BY_BIAS = {
    # With transpose_kernel=True, of two channels.
    "ConvTranspose_0": {"kernel": jnp.ones((2, 2, 3, 2)), "bias": jnp.ones(3)},
    "ConvLocal_0": {"kernel": jnp.ones((9, 8, 3)), "bias": jnp.ones((9, 3))},
    # nn.DenseGeneral((2, 3)).
    "out": {"kernel": jnp.ones((4, 2, 3)), "bias": jnp.ones((2, 3))},
}


def kernels_alone(tree):
    return jax.tree.map(lambda leaf: leaf.ndim > 2, tree)


@pytest.mark.parametrize("layer", TOLD_BY_BIAS)
@pytest.mark.parametrize(
    "around",
    [
        lambda tx: optax.masked(tx, kernels_alone),
        lambda tx: optax.multi_transform(
            {True: tx, False: optax.adam(1e-3)}, kernels_alone
        ),
    ],
)
def test_what_a_masked_bias_would_have_told_is_not_guessed(layer, around):
    params = {layer: TOLD_BY_BIAS[layer]}

    def update(numbers):
        tx = around(scale_by_egd(weight_dimension_numbers=numbers))
        return tx.update(params, tx.init(params), params)[0][layer]["kernel"]

    with pytest.raises(
        ValueError, match=r"its bias taken out by a mask.*give the tree"
    ):
        update(flax_dimension_numbers)
    numbers = flax_dimension_numbers(params)
    alone = scale_by_egd(weight_dimension_numbers=numbers)
    expected, _ = alone.update(params, alone.init(params))
    np.testing.assert_array_equal(update(numbers), expected[layer]["kernel"])


@pytest.mark.parametrize("layer", TOLD_BY_BIAS)
@pytest.mark.parametrize(
    "penalty",
    [
        add_nuclear_norm_penalty,
        functools.partial(add_log_det_penalty, eps=0.1),
    ],
)
def test_a_penalty_asks_for_the_numbers_before_its_mask(layer, penalty, rng):
    params = jax.tree.map(
        lambda leaf: jnp.asarray(rng.normal(size=leaf.shape), jnp.float32),
        {layer: TOLD_BY_BIAS[layer]},
    )
    numbers = {"weight_dimension_numbers": flax_dimension_numbers}
    added = []
    for mask in (None, kernels_alone):
        tx = penalty(1.0, mask=mask, **numbers)
        updates, _ = tx.update(params, tx.init(params), params)
        added.append(updates[layer]["kernel"])
    np.testing.assert_array_equal(*added)


def test_attention_is_known_without_its_biases():
    attention = nn.MultiHeadDotProductAttention(num_heads=2)
    params = attention.init(jax.random.key(0), jnp.ones((1, 3, 6)))["params"]
    masked = jax.tree.map(
        lambda leaf: leaf if leaf.ndim > 2 else optax.MaskedNode(), params
    )
    assert by_path(masked) == ATTENTION


@pytest.mark.parametrize(
    "params",
    [
        {"ih": {"kernel": jnp.ones((3, 4))}, "hh": {"kernel": jnp.ones((0, 4))}},
        {name: {"kernel": jnp.ones((0, 0))} for name in ("dense_h", "dense_i")},
    ],
)
def test_recurrent_kernels_of_odd_shapes_are_no_gates(params):
    assert set(by_path(params).values()) <= {None, ((0,), (1,))}


def test_a_bare_array_is_refused_or_named():
    with pytest.raises(ValueError, match=r"leaf  ?of shape|no rule fits"):
        flax_dimension_numbers(jnp.ones((2, 2)))
    number = MuonDimensionNumbers()
    assert flax_dimension_numbers(jnp.ones((2, 2)), named={"": number}) == number
