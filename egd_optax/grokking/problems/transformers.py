"""Flax transformers for the grokking tasks."""

import jax
import jax.numpy as jnp
from flax import nnx


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
        return self._forward(x)[0]

    def pre_activations(self, x: jax.Array) -> list[jax.Array]:
        """What comes into the GELU units of each block, ``(batch, tokens, units)``; of
        the last block at the last token.
        """
        return self._forward(x)[1]

    def embeddings(self, symbols: int) -> list[jax.Array]:
        """Of the first so many tokens, ``(symbols, width)``."""
        return [self.tokens.embedding[...][:symbols]]

    def _forward(self, x: jax.Array) -> tuple[jax.Array, list[jax.Array]]:
        mask = nnx.make_causal_mask(x)
        x = self.tokens(x) + self.positions(jnp.arange(x.shape[-1]))
        *others, last = self.blocks
        found = []
        for block in others:
            x = block.attended(x, mask)
            found.append(block.before_gelu(x))
            x = block.fed_forward(x, found[-1])
        x = last.attended_at_the_end(x)
        found.append(last.before_gelu(x))
        x = last.fed_forward(x, found[-1])[:, 0]
        return self.output(self.norm(x)), found


class _Block(nnx.Module):
    def __init__(self, width: int, heads: int, *, rngs: nnx.Rngs):
        self.attention_norm = nnx.LayerNorm(width, rngs=rngs)
        self.attention = nnx.MultiHeadAttention(heads, width, decode=False, rngs=rngs)
        self.mlp_norm = nnx.LayerNorm(width, rngs=rngs)
        self.up = nnx.Linear(width, 4 * width, rngs=rngs)
        self.down = nnx.Linear(4 * width, width, rngs=rngs)

    def __call__(self, x: jax.Array, mask: jax.Array) -> jax.Array:
        x = self.attended(x, mask)
        return self.fed_forward(x, self.before_gelu(x))

    def attended(self, x: jax.Array, mask: jax.Array) -> jax.Array:
        return x + self.attention(self.attention_norm(x), mask=mask)

    def attended_at_the_end(self, x: jax.Array) -> jax.Array:
        """The last token of it, ``(batch, 1, width)``.

        A third of the transformer's work is for tokens that nothing reads.
        """
        seen = self.attention_norm(x)
        return x[:, -1:] + self.attention(seen[:, -1:], seen)

    def before_gelu(self, x: jax.Array) -> jax.Array:
        return _of_tokens(self.up, self.mlp_norm(x))

    def fed_forward(self, x: jax.Array, before_gelu: jax.Array) -> jax.Array:
        return x + _of_tokens(self.down, nnx.gelu(before_gelu))


def _of_tokens(layer: nnx.Linear, x: jax.Array) -> jax.Array:
    """The layer's outputs ``(..., outputs)`` for tokens ``(..., inputs)``."""
    # A CPU takes three times as long for the kernel's gradient over two axes as over
    # one.
    return layer(x.reshape(-1, x.shape[-1])).reshape(*x.shape[:-1], -1)


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
        x = self._attended(x)
        return self.output(x + self.down(nnx.relu(self.up(x))))

    def pre_activations(self, x: jax.Array) -> list[jax.Array]:
        """What comes into the hidden units at the last token, ``(batch, units)``."""
        return [self.up(self._attended(x))]

    def embeddings(self, symbols: int) -> list[jax.Array]:
        """Of the first so many tokens, ``(symbols, width)``."""
        return [self.tokens.embedding[...][:symbols]]

    def _attended(self, x: jax.Array) -> jax.Array:
        x = self.tokens(x) + self.positions(jnp.arange(x.shape[-1]))
        # Nothing reads what the block makes of the tokens before the last.
        return x[:, -1] + self.attention(x[:, -1:], x)[:, 0]
