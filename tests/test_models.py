import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from egd_optax.grokking.problems.losses import cross_entropy, squared_error
from egd_optax.grokking.problems.models import MLP, ConvNet
from egd_optax.grokking.problems.transformers import OneLayerTransformer, Transformer


@pytest.fixture
def transformer():
    return Transformer(9, 7, width=16, heads=2, rngs=nnx.Rngs(0))


def test_attention_is_causal(transformer):
    x = jax.random.normal(jax.random.key(0), (3, 4, 16))
    mask = nnx.make_causal_mask(jnp.ones((3, 4)))
    block = transformer.blocks[0]
    before = block(x, mask)
    after = block(x.at[:, 2].multiply(-1.0), mask)
    np.testing.assert_allclose(after[:, :2], before[:, :2], atol=1e-6)
    assert np.all(np.abs(after[:, 2:] - before[:, 2:]).max(axis=-1) > 1e-3)


def test_the_transformer_uses_the_mask_and_answers_at_the_last_token(transformer):
    tokens = jnp.array([[1, 7, 2, 8], [3, 7, 4, 8]])
    logits = transformer(tokens)
    assert logits.shape == (2, 7)
    x = transformer.tokens(tokens) + transformer.positions(jnp.arange(4))
    for block in transformer.blocks:
        x = block(x, nnx.make_causal_mask(tokens))
    expected = transformer.output(transformer.norm(x))[:, -1]
    np.testing.assert_allclose(logits, expected, rtol=1e-4, atol=1e-5)
    # The answer depends on both operands.
    for position in (0, 2):
        changed = transformer(tokens.at[:, position].set(5))
        assert np.abs(changed - logits).max() > 1e-3


def test_parameters_of_the_mlp_are_scaled():
    net = MLP((784, 200, 10), init_scale=8, rngs=nnx.Rngs(0))
    for layer, inputs in zip(net.layers, (784, 200), strict=True):
        limit = 8 / np.sqrt(inputs)
        for leaf in (layer.kernel[...], layer.bias[...]):
            assert 0.8 * limit < np.abs(leaf).max() <= limit
        assert np.std(layer.kernel[...]) == pytest.approx(limit / np.sqrt(3), rel=0.05)


def test_the_conv_net_answers_with_outputs():
    net = ConvNet(8, 10, rngs=nnx.Rngs(0))
    assert net(jnp.ones((3, 64))).shape == (3, 10)


def test_losses_are_the_written_out_ones(rng):
    outputs = rng.normal(size=(5, 3)).astype(np.float32)
    labels = np.array([0, 2, 1, 1, 0])
    losses, right = cross_entropy(outputs, labels)
    expected = np.log(np.exp(outputs).sum(axis=1)) - outputs[np.arange(5), labels]
    np.testing.assert_allclose(losses, expected, rtol=1e-5)
    np.testing.assert_array_equal(right, outputs.argmax(axis=1) == labels)

    losses, right = squared_error(outputs, labels)
    np.testing.assert_allclose(
        losses, ((outputs - np.eye(3)[labels]) ** 2).mean(axis=1), rtol=1e-5
    )
    np.testing.assert_array_equal(right, outputs.argmax(axis=1) == labels)

    signs, labels = outputs[:, :1], np.array([0, 1, 1, 0, 1])
    losses, right = squared_error(signs, labels)
    np.testing.assert_allclose(losses, (signs[:, 0] - (2 * labels - 1)) ** 2, rtol=1e-5)
    np.testing.assert_array_equal(right, (signs[:, 0] > 0) == labels)


def test_the_one_layer_transformer_is_nandas():
    width, heads, tokens, outputs = 8, 2, 6, 5
    model = OneLayerTransformer(
        tokens, outputs, width=width, heads=heads, rngs=nnx.Rngs(0)
    )
    x = np.array([[1, 4, 5], [0, 3, 5]])
    weights = {
        "/".join(map(str, path)): np.float64(leaf[...])
        for path, leaf in nnx.to_flat_state(nnx.state(model, nnx.Param))
    }
    assert [name for name in weights if "bias" in name] == ["down/bias", "up/bias"]
    seen = weights["tokens/embedding"][x] + weights["positions/embedding"]
    key, query, value = (
        np.einsum("btd,dhf->bthf", seen, weights[f"attention/{name}/kernel"])
        for name in ("key", "query", "value")
    )
    scores = np.einsum("bhf,bthf->bht", query[:, -1], key) / np.sqrt(width // heads)
    share = np.exp(scores) / np.exp(scores).sum(-1, keepdims=True)
    mixed = np.einsum("bht,bthf->bhf", share, value)
    last = seen[:, -1] + np.einsum(
        "bhf,hfd->bd", mixed, weights["attention/out/kernel"]
    )
    hidden = np.maximum(last @ weights["up/kernel"] + weights["up/bias"], 0)
    last = last + hidden @ weights["down/kernel"] + weights["down/bias"]
    np.testing.assert_allclose(
        model(x), last @ weights["output/kernel"], rtol=1e-4, atol=1e-5
    )
