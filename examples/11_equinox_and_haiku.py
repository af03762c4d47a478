"""The same optimizer on models of Equinox and of Haiku.

An Equinox model is a tree of its modules, whose weights are (out, in): the table says
what `equinox_dimension_numbers` makes of it. Haiku's parameters are dictionaries, and
an LSTM's four gates lie in one array: each is whitened alone. Both models classify
scikit-learn's digits, half of the 1797 are for training.

    python examples/11_equinox_and_haiku.py

Seen after 5 epochs: 98.4 % and 91.7 %. The learning rate was not tuned.
"""

import sys

import equinox as eqx
import haiku as hk
import jax
import jax.numpy as jnp
import numpy as np
import optax
from sklearn.datasets import load_digits

from egd_optax import (
    egd,
    equinox_dimension_numbers,
    haiku_dimension_numbers,
    tabulate_matrices,
)

QUICK = "--quick" in sys.argv
EPOCHS, WIDTH = (1, 4) if QUICK else (5, 16)


class Convolutions(eqx.Module):
    layers: list
    head: eqx.nn.Linear

    def __init__(self, key):
        first, second, last = jax.random.split(key, 3)
        self.layers = [
            eqx.nn.Conv2d(1, WIDTH, 3, padding=1, key=first),
            eqx.nn.Conv2d(WIDTH, 2 * WIDTH, 3, padding=1, groups=2, key=second),
        ]
        self.head = eqx.nn.Linear(8 * WIDTH, 10, key=last)

    def __call__(self, image):
        x = image[None]
        for layer in self.layers:
            x = eqx.nn.MaxPool2d(2, 2)(jax.nn.relu(layer(x)))
        return self.head(x.ravel())


def with_equinox():
    """Parameters, logits of a batch, and what tells the matrices."""
    params, static = eqx.partition(Convolutions(jax.random.key(0)), eqx.is_array)

    def logits(params, images):
        return jax.vmap(eqx.combine(params, static))(images)

    return params, logits, equinox_dimension_numbers


def with_haiku():
    """The same for an LSTM that reads an image row by row."""

    @hk.without_apply_rng
    @hk.transform
    def model(images):
        core = hk.LSTM(4 * WIDTH)
        rows = jnp.moveaxis(images, 1, 0)
        hidden, _ = hk.dynamic_unroll(core, rows, core.initial_state(len(images)))
        return hk.Linear(10)(hidden[-1])

    params = model.init(jax.random.key(0), jnp.zeros((1, 8, 8)))
    return params, model.apply, haiku_dimension_numbers


def train(params, logits, dimension_numbers, images, labels, order):
    """Parameters after so many epochs on the first half of the order."""
    tx = egd(0.03, weight_decay=0.1, weight_dimension_numbers=dimension_numbers)

    def loss(params, x, y):
        losses = optax.softmax_cross_entropy_with_integer_labels(logits(params, x), y)
        return losses.mean()

    @jax.jit
    def step(params, state, x, y):
        updates, state = tx.update(jax.grad(loss)(params, x, y), state, params)
        return optax.apply_updates(params, updates), state

    state = tx.init(params)
    for batch in [*order[: len(order) // 64 * 32].reshape(-1, 32)] * EPOCHS:
        params, state = step(params, state, images[batch], labels[batch])
    return params


def main():
    digits = load_digits()
    images = (digits.images / 16).astype(np.float32)
    order = np.random.default_rng(0).permutation(len(images))
    test = order[len(order) // 2 :]
    for make in (with_equinox, with_haiku):
        params, logits, dimension_numbers = make()
        print(tabulate_matrices(params, dimension_numbers))
        params = train(params, logits, dimension_numbers, images, digits.target, order)
        guesses = jnp.argmax(jax.jit(logits)(params, images[test]), axis=-1)
        accuracy = np.mean(guesses == digits.target[test])
        print(f"epochs: {EPOCHS}, test accuracy: {accuracy:.1%}\n")


if __name__ == "__main__":
    main()
