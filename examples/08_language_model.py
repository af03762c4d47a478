"""A small character-level language model, to see whether EGD helps where nothing groks.

Python's own help (`pydoc_data.topics`): 80 % to train on, 10 % to choose each learning
rate by, 10 % to report. At equal time, each does as many steps as fit into the time of
the fastest, with a schedule of that length.

    OPENBLAS_NUM_THREADS=1 python examples/08_language_model.py

Seen, one seed, a busy CPU core: test loss after 300 steps AdamW 1.878, Muon 1.598, EGD
1.532, `egd()` 1.529; in the 18 s of AdamW's steps 1.637 (282 steps), 1.594 (265) and
1.536 (262). One seed of a small model says nothing about large ones.
"""

import sys
import time
from pydoc_data import topics

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx

from egd_optax import egd, flax_dimension_numbers

QUICK = "--quick" in sys.argv
SIZES = (8, 1, 8, 4, 4) if QUICK else (64, 2, 64, 32, 300)
WIDTH, DEPTH, CONTEXT, BATCH, STEPS = SIZES
MUON = {"muon_weight_dimension_numbers": flax_dimension_numbers, "weight_decay": 0.1}
NUMBERS = {"weight_dimension_numbers": flax_dimension_numbers}
EGD = {"momentum": 0.9, "weight_decay": 0.07, "adam_learning_rate": 3e-3}
MAKE = {
    "adamw": lambda rate: optax.adamw(rate, weight_decay=0.1),
    "muon": lambda rate: optax.contrib.muon(rate, adam_learning_rate=3e-3, **MUON),
    "egd": lambda rate: egd(rate, **EGD, **NUMBERS),
    "egd()": lambda _: egd(**NUMBERS),
}
RATES = {"adamw": (5e-3, 1e-2, 2e-2, 4e-2)}
RATES |= dict.fromkeys(("muon", "egd"), (2e-2, 5e-2, 1e-1, 2e-1)) | {"egd()": (0,)}

TEXT = " ".join(topics.topics.values())
ALPHABET, CODES = np.unique(list(TEXT), return_inverse=True)
TRAIN, VALIDATION, TEST = np.split(CODES, [8 * len(CODES) // 10, 9 * len(CODES) // 10])


class Block(nnx.Module):
    def __init__(self, rngs):
        self.attention = nnx.MultiHeadAttention(4, WIDTH, decode=False, rngs=rngs)
        up = nnx.Linear(WIDTH, 4 * WIDTH, rngs=rngs)
        down = nnx.Linear(4 * WIDTH, WIDTH, rngs=rngs)
        self.mlp = nnx.Sequential(nnx.LayerNorm(WIDTH, rngs=rngs), up, nnx.gelu, down)
        self.norm = nnx.LayerNorm(WIDTH, rngs=rngs)

    def __call__(self, x):
        x += self.attention(self.norm(x), mask=nnx.make_causal_mask(x[..., 0]))
        return x + self.mlp(x)


class Model(nnx.Module):
    def __init__(self, rngs):
        self.characters = nnx.Embed(len(ALPHABET), WIDTH, rngs=rngs)
        self.positions = nnx.Embed(CONTEXT, WIDTH, rngs=rngs)
        self.blocks = nnx.Sequential(*(Block(rngs) for _ in range(DEPTH)))
        self.norm = nnx.LayerNorm(WIDTH, rngs=rngs)
        self.head = nnx.Linear(WIDTH, len(ALPHABET), rngs=rngs)

    def __call__(self, x):
        x = self.characters(x) + self.positions(jnp.arange(CONTEXT))
        return self.head(self.norm(self.blocks(x)))


@nnx.jit
def loss_fn(model, x):
    x, y = x[:, :-1], x[:, 1:]
    return optax.softmax_cross_entropy_with_integer_labels(model(x), y).mean()


@nnx.jit
def train_step(model, optimizer, x):
    optimizer.update(model, nnx.grad(loss_fn)(model, x))


def windows(text, count, rng):
    starts = rng.integers(len(text) - CONTEXT, size=count)
    return text[starts[:, None] + np.arange(CONTEXT + 1)]


def run(make_optimizer, rate, steps):
    """Seconds, validation loss and test loss."""
    model, rng = Model(nnx.Rngs(0)), np.random.default_rng(0)
    held_out = [windows(part, 4 * BATCH, rng) for part in (VALIDATION, TEST)]
    schedule = optax.warmup_cosine_decay_schedule(0.0, rate, steps // 10, steps)
    optimizer = nnx.Optimizer(model, make_optimizer(schedule), wrt=nnx.Param)
    for number in range(steps):
        train_step(model, optimizer, windows(TRAIN, BATCH, rng))
        jax.block_until_ready(model.head.kernel[...])
        if number == 0:  # it compiles
            start = time.perf_counter()
    seconds = time.perf_counter() - start
    return seconds, *(float(loss_fn(model, x)) for x in held_out)


def main():
    best = {}
    for name, rates in RATES.items():
        runs = [(r, *run(MAKE[name], r, STEPS)) for r in rates[: 1 if QUICK else 4]]
        losses = "  ".join(f"{rate:g}: {loss:.3f}" for rate, _, loss, _ in runs)
        print(f"{name:6} validation loss by rate  {losses}", flush=True)
        best[name] = min(runs, key=lambda row: row[2])
    budget = min(seconds for _, seconds, _, _ in best.values())
    print(f"test loss after {STEPS} steps, and after {budget:.1f} s")
    for name, (rate, seconds, _, loss) in best.items():
        steps = max(2, round(STEPS * budget / seconds))
        then = loss if steps == STEPS else run(MAKE[name], rate, steps)[-1]
        print(f"{name:6} {loss:.3f} in {seconds:.1f} s, {then:.3f} in {steps} steps")


if __name__ == "__main__":
    main()
