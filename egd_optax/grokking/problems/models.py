"""Flax models for the grokking tasks."""

import itertools
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jax.nn.initializers import Initializer


class TwoLayerNet(nnx.Module):
    r"""Two-layer ReLU network, f(x) = relu(x W₁ + b) W₂.

    Weights start at N(0, 2 / fan_in); the output layer has no bias.

    Args:
      inputs: number of input features.
      outputs: number of outputs.
      width: number of hidden units.
      random_bias: whether b starts at N(0, 2 / inputs), as the source has it for
        parities, and not at zero, as for modular arithmetic.
      rngs: random streams of the initialization.

    Source: Saheb Pasand and Dohmatob, *Egalitarian Gradient Descent*, arXiv 2510.04930.
    """

    def __init__(
        self,
        inputs: int,
        outputs: int,
        *,
        width: int = 512,
        random_bias: bool = False,
        rngs: nnx.Rngs,
    ):
        init = nnx.initializers.variance_scaling(2.0, "fan_in", "normal")
        bias_init: Initializer = nnx.initializers.zeros
        if random_bias:
            bias_init = nnx.initializers.normal((2 / inputs) ** 0.5)
        self.hidden = nnx.Linear(
            inputs, width, kernel_init=init, bias_init=bias_init, rngs=rngs
        )
        self.output = nnx.Linear(
            width, outputs, use_bias=False, kernel_init=init, rngs=rngs
        )

    def __call__(self, x: jax.Array) -> jax.Array:
        """Outputs ``(..., outputs)`` of inputs ``(..., inputs)``."""
        return self.output(nnx.relu(self.hidden(x)))


class MLP(nnx.Module):
    """ReLU network whose parameters start ``init_scale`` times larger than usual.

    Usual is uniform between ±fan_in^(-1/2), for weights and biases alike.

    Args:
      sizes: numbers of features: of the input, of each hidden layer, of the output.
      init_scale: factor on all parameters at the start; a large one delays
        generalization.
      rngs: random streams of the initialization.

    Source: Liu et al., *Omnigrok*, arXiv 2210.01117: sizes (784, 200, 200, 10) and
    scale 8 for 1000 images of MNIST.
    """

    def __init__(
        self, sizes: Sequence[int], *, init_scale: float = 1.0, rngs: nnx.Rngs
    ):
        self.layers = nnx.List(
            nnx.Linear(
                inputs,
                outputs,
                kernel_init=_uniform(init_scale * inputs**-0.5),
                bias_init=_uniform(init_scale * inputs**-0.5),
                rngs=rngs,
            )
            for inputs, outputs in itertools.pairwise(sizes)
        )

    def __call__(self, x: jax.Array) -> jax.Array:
        """Outputs ``(..., sizes[-1])`` of inputs ``(..., sizes[0])``."""
        *hidden, output = self.layers
        for layer in hidden:
            x = nnx.relu(layer(x))
        return output(x)


class ConvNet(nnx.Module):
    """Three 3 × 3 convolutions, the last two with stride 2, and a dense layer.

    Args:
      side: height and width of the images, which have one channel.
      outputs: number of outputs.
      channels: channels of each convolution.
      rngs: random streams of the initialization.
    """

    def __init__(
        self,
        side: int,
        outputs: int,
        *,
        channels: Sequence[int] = (16, 32, 32),
        rngs: nnx.Rngs,
    ):
        self.side = side
        before = 1, *channels[:-1]
        self.convolutions = nnx.List(
            nnx.Conv(inputs, after, (3, 3), strides=1 if i == 0 else 2, rngs=rngs)
            for i, (inputs, after) in enumerate(zip(before, channels, strict=True))
        )
        for _ in channels[1:]:
            side = -(-side // 2)
        self.output = nnx.Linear(side * side * channels[-1], outputs, rngs=rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        """Outputs ``(batch, outputs)`` of flat images ``(batch, side²)``."""
        x = x.reshape(-1, self.side, self.side, 1)
        for convolution in self.convolutions:
            x = nnx.relu(convolution(x))
        return self.output(x.reshape(len(x), -1))


class Transformer(nnx.Module):
    """Decoder-only transformer that answers at the last token.

    Learned positions; in each block, causal self-attention and a GELU layer of four
    times the width, both behind a LayerNorm and a residual connection; a LayerNorm
    and an unbiased linear layer at the end.

    Args:
      vocabulary: number of tokens.
      outputs: number of classes.
      length: number of tokens in an input.
      width: features of a token.
      blocks: number of blocks.
      heads: attention heads of a block.
      rngs: random streams of the initialization.

    Source: Power et al., *Grokking*, arXiv 2201.02177, with the sizes of Lee et al.,
    *Grokfast*, arXiv 2405.20233.
    """

    def __init__(
        self,
        vocabulary: int,
        outputs: int,
        *,
        length: int = 4,
        width: int = 128,
        blocks: int = 2,
        heads: int = 4,
        rngs: nnx.Rngs,
    ):
        self.tokens = nnx.Embed(vocabulary, width, rngs=rngs)
        self.positions = nnx.Embed(length, width, rngs=rngs)
        self.blocks = nnx.List(_Block(width, heads, rngs=rngs) for _ in range(blocks))
        self.norm = nnx.LayerNorm(width, rngs=rngs)
        self.output = nnx.Linear(width, outputs, use_bias=False, rngs=rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        """Logits ``(batch, outputs)`` of tokens ``(batch, length)``."""
        mask = nnx.make_causal_mask(x)
        x = self.tokens(x) + self.positions(jnp.arange(x.shape[-1]))
        *others, last = self.blocks
        for block in others:
            x = block(x, mask)
        return self.output(self.norm(last.at_the_end(x)))


class _Block(nnx.Module):
    def __init__(self, width: int, heads: int, *, rngs: nnx.Rngs):
        self.attention_norm = nnx.LayerNorm(width, rngs=rngs)
        self.attention = nnx.MultiHeadAttention(heads, width, decode=False, rngs=rngs)
        self.mlp_norm = nnx.LayerNorm(width, rngs=rngs)
        self.up = nnx.Linear(width, 4 * width, rngs=rngs)
        self.down = nnx.Linear(4 * width, width, rngs=rngs)

    def __call__(self, x: jax.Array, mask: jax.Array) -> jax.Array:
        x = x + self.attention(self.attention_norm(x), mask=mask)
        return x + self._mlp(x)

    def at_the_end(self, x: jax.Array) -> jax.Array:
        """The last token of what the block makes, ``(batch, width)``.

        A third of the transformer's work is for tokens that nothing reads.
        """
        seen = self.attention_norm(x)
        x = x[:, -1:] + self.attention(seen[:, -1:], seen)
        return (x + self._mlp(x))[:, 0]

    def _mlp(self, x: jax.Array) -> jax.Array:
        return self.down(nnx.gelu(self.up(self.mlp_norm(x))))


class OneLayerTransformer(nnx.Module):
    """One block without LayerNorm: causal self-attention and a ReLU layer.

    Learned positions, no biases but those of the ReLU layer of four times the width,
    weights from N(0, 1 / width), those of the output from N(0, 1 / outputs).

    Args:
      vocabulary: number of tokens.
      outputs: number of classes.
      length: number of tokens in an input.
      width: features of a token.
      heads: attention heads.
      rngs: random streams of the initialization.

    Source: Nanda et al., *Progress measures for grokking via mechanistic
    interpretability*, arXiv 2301.05217.
    """

    def __init__(
        self,
        vocabulary: int,
        outputs: int,
        *,
        length: int = 3,
        width: int = 128,
        heads: int = 4,
        rngs: nnx.Rngs,
    ):
        init = nnx.initializers.normal(width**-0.5)
        self.tokens = nnx.Embed(vocabulary, width, embedding_init=init, rngs=rngs)
        self.positions = nnx.Embed(length, width, embedding_init=init, rngs=rngs)
        self.attention = nnx.MultiHeadAttention(
            heads, width, use_bias=False, kernel_init=init, decode=False, rngs=rngs
        )
        self.up = nnx.Linear(width, 4 * width, kernel_init=init, rngs=rngs)
        self.down = nnx.Linear(4 * width, width, kernel_init=init, rngs=rngs)
        self.output = nnx.Linear(
            width,
            outputs,
            use_bias=False,
            kernel_init=nnx.initializers.normal(outputs**-0.5),
            rngs=rngs,
        )

    def __call__(self, x: jax.Array) -> jax.Array:
        """Logits ``(batch, outputs)`` of tokens ``(batch, length)``."""
        x = self.tokens(x) + self.positions(jnp.arange(x.shape[-1]))
        # Nothing reads what the block makes of the tokens before the last.
        x = x[:, -1] + self.attention(x[:, -1:], x)[:, 0]
        return self.output(x + self.down(nnx.relu(self.up(x))))


def _uniform(limit: float) -> Initializer:
    def init(
        key: jax.Array, shape: Any, dtype: Any = None, out_sharding: Any = None
    ) -> jax.Array:
        return jax.random.uniform(key, shape, dtype or jnp.float32, -limit, limit)

    return init
