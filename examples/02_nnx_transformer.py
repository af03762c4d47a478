"""A Flax NNX transformer on a · b mod 97.

Attention has kernels of three axes; `flax_dimension_numbers` names them. Every batch
touches all tokens here, so the embeddings are whitened, too. Adam has the rest.

    python examples/02_nnx_transformer.py
"""

import functools
import sys
import time

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx
from optax.contrib import MuonDimensionNumbers

from egd_optax import egd, flax_dimension_numbers, inverse_time_decay

QUICK = "--quick" in sys.argv
P, WIDTH, STEPS, EVERY = (7, 16, 4, 2) if QUICK else (97, 128, 200, 20)


class Block(nnx.Module):
    def __init__(self, rngs):
        self.norms = nnx.List([nnx.LayerNorm(WIDTH, rngs=rngs) for _ in range(2)])
        self.attention = nnx.MultiHeadAttention(
            num_heads=4, in_features=WIDTH, decode=False, rngs=rngs
        )
        self.up = nnx.Linear(WIDTH, 4 * WIDTH, rngs=rngs)
        self.down = nnx.Linear(4 * WIDTH, WIDTH, rngs=rngs)

    def __call__(self, x):
        mask = nnx.make_causal_mask(x[..., 0])
        x = x + self.attention(self.norms[0](x), mask=mask)
        return x + self.down(nnx.gelu(self.up(self.norms[1](x))))


class Transformer(nnx.Module):
    """Decoder-only, two layers; reads the answer off the last token."""

    def __init__(self, rngs):
        self.tokens = nnx.Embed(P + 2, WIDTH, rngs=rngs)
        self.positions = nnx.Embed(4, WIDTH, rngs=rngs)
        self.blocks = nnx.List([Block(rngs) for _ in range(2)])
        self.norm = nnx.LayerNorm(WIDTH, rngs=rngs)
        self.head = nnx.Linear(WIDTH, P, use_bias=False, rngs=rngs)

    def __call__(self, tokens):
        x = self.tokens(tokens) + self.positions(jnp.arange(4))
        for block in self.blocks:
            x = block(x)
        return self.head(self.norm(x[:, -1]))


def loss_fn(model, x, y):
    losses = optax.softmax_cross_entropy_with_integer_labels(model(x), y)
    return losses.mean()


@nnx.jit
def train_step(model, optimizer, x, y):
    loss, grads = nnx.value_and_grad(loss_fn)(model, x, y)
    optimizer.update(model, grads)
    return loss


@nnx.jit
def accuracy(model, x, y):
    return jnp.mean(jnp.argmax(model(x), axis=-1) == y)


def main():
    a, b = (side.ravel() for side in np.meshgrid(np.arange(P), np.arange(1, P)))
    x = np.stack([a, np.full_like(a, P), b, np.full_like(a, P + 1)], axis=1)
    y = a * b % P
    rng = np.random.default_rng(0)
    train, test = np.array_split(rng.permutation(len(x)), 2)

    model = Transformer(nnx.Rngs(0))
    tx = egd(
        inverse_time_decay(0.05, 150),
        momentum=0.9,
        weight_decay=0.5,
        weight_dimension_numbers=functools.partial(
            flax_dimension_numbers, named={"embedding": MuonDimensionNumbers()}
        ),
    )
    optimizer = nnx.Optimizer(model, tx, wrt=nnx.Param)
    start = time.perf_counter()
    for number in range(1, STEPS + 1):
        batch = rng.choice(train, min(512, len(train)), replace=False)
        loss = train_step(model, optimizer, x[batch], y[batch])
        if number % EVERY == 0:
            unseen = accuracy(model, x[test], y[test])
            print(
                f"step {number:4}  loss {loss:.4f}  test accuracy {unseen:6.1%}  "
                f"{time.perf_counter() - start:4.0f} s on {jax.default_backend()}",
                flush=True,
            )


if __name__ == "__main__":
    main()
