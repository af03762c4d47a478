"""One small model with every kind of layer, in NNX and in Linen."""

import flax.linen as nn
import jax
import jax.numpy as jnp
from flax import nnx

TOKENS = jnp.array([[0, 1, 2, 3], [4, 3, 2, 1]])


class NNXBlock(nnx.Module):
    def __init__(self, rngs):
        self.attention = nnx.MultiHeadAttention(
            num_heads=2, in_features=6, decode=False, rngs=rngs
        )
        self.norm = nnx.LayerNorm(6, rngs=rngs)
        self.mlp = nnx.List([nnx.Linear(6, 8, rngs=rngs), nnx.Linear(8, 6, rngs=rngs)])

    def __call__(self, x):
        x = x + self.attention(self.norm(x))
        return x + self.mlp[1](nnx.gelu(self.mlp[0](x)))


class NNXModel(nnx.Module):
    """Embedding, scanned blocks, one more block, convolution and head."""

    def __init__(self, rngs):
        @nnx.split_rngs(splits=3)
        @nnx.vmap(in_axes=0, out_axes=0)
        def stack(rngs):
            return NNXBlock(rngs)

        self.embed = nnx.Embed(5, 6, rngs=rngs)
        self.blocks = stack(rngs)
        self.last = NNXBlock(rngs)
        self.conv = nnx.Conv(6, 4, kernel_size=(3,), rngs=rngs)
        self.head = nnx.Linear(4, 5, use_bias=False, rngs=rngs)

    def __call__(self, tokens):
        @nnx.scan(in_axes=(0, nnx.Carry), out_axes=nnx.Carry)
        def through(block, x):
            return block(x)

        x = self.last(through(self.blocks, self.embed(tokens)))
        return self.head(jnp.mean(self.conv(x), axis=1))


class LinenBlock(nn.Module):
    @nn.compact
    def __call__(self, x, _):
        x = x + nn.MultiHeadDotProductAttention(num_heads=2)(nn.LayerNorm()(x))
        return x + nn.Dense(6)(nn.gelu(nn.Dense(8)(x))), None


class LinenModel(nn.Module):
    @nn.compact
    def __call__(self, tokens):
        x = nn.Embed(5, 6)(tokens)
        scan = nn.scan(
            LinenBlock,
            variable_axes={"params": 0},
            split_rngs={"params": True},
            length=3,
        )
        x, _ = scan(name="blocks")(x, None)
        x, _ = LinenBlock(name="last")(x, None)
        return nn.Dense(5, use_bias=False)(jnp.mean(nn.Conv(4, (3,))(x), axis=1))


def nnx_params():
    return nnx.state(nnx.eval_shape(lambda: NNXModel(nnx.Rngs(0))), nnx.Param)


def linen_params():
    return jax.eval_shape(LinenModel().init, jax.random.key(0), TOKENS)["params"]
