"""A convolutional net on scikit-learn's digits.

A convolution's kernel (3, 3, in, out) is a matrix from its whole window to its output
channels; `flax_dimension_numbers` says so. Half of the 1797 digits is for training.

    python examples/09_convolutions.py

Seen after 1 and 10 epochs, and the loss then: AdamW 68 % and 97.2 %, 0.096; EGD 88 %
and 98.9 %, 0.042; EGD with nothing set 93 % and 98.2 %, 0.063. No learning rate was
tuned.
"""

import sys

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx
from sklearn.datasets import load_digits

from egd_optax import egd, flax_dimension_numbers

QUICK = "--quick" in sys.argv
EPOCHS, WIDTH, SEEDS = (1, 4, 1) if QUICK else (10, 16, 3)
NUMBERS = {"weight_dimension_numbers": flax_dimension_numbers}
OPTIMIZERS = {
    "adamw": lambda: optax.adamw(3e-3, weight_decay=1e-2),
    "egd": lambda: egd(0.03, momentum=0.5, weight_decay=0.1, **NUMBERS),
    "egd()": lambda: egd(**NUMBERS),
}


class Net(nnx.Module):
    def __init__(self, rngs):
        self.conv1 = nnx.Conv(1, WIDTH, (3, 3), rngs=rngs)
        self.conv2 = nnx.Conv(WIDTH, 2 * WIDTH, (3, 3), rngs=rngs)
        self.head = nnx.Linear(4 * 2 * WIDTH, 10, rngs=rngs)

    def __call__(self, x):
        for conv in (self.conv1, self.conv2):
            x = nnx.max_pool(nnx.relu(conv(x)), (2, 2), strides=(2, 2))
        return self.head(x.reshape(len(x), -1))


def loss_fn(model, x, y):
    losses = optax.softmax_cross_entropy_with_integer_labels(model(x), y)
    return losses.mean()


@nnx.jit
def train_step(model, optimizer, x, y):
    optimizer.update(model, nnx.grad(loss_fn)(model, x, y))


@nnx.jit
def accuracy(model, x, y):
    return jnp.mean(jnp.argmax(model(x), axis=-1) == y)


def run(make_optimizer, seed, images, labels):
    """Test accuracy after each epoch, and test loss at the end."""
    rng = np.random.default_rng(seed)
    train, test = np.array_split(rng.permutation(len(images)), 2)
    model = Net(nnx.Rngs(seed))
    optimizer = nnx.Optimizer(model, make_optimizer(), wrt=nnx.Param)
    curve = []
    for _ in range(EPOCHS):
        order = rng.permutation(train)[: len(train) // 32 * 32].reshape(-1, 32)
        for batch in order:
            train_step(model, optimizer, images[batch], labels[batch])
        curve.append(float(accuracy(model, images[test], labels[test])))
    return *curve, float(loss_fn(model, images[test], labels[test]))


def main():
    digits = load_digits()
    images = (digits.images[..., None] / 16).astype(np.float32)
    for name, make_optimizer in OPTIMIZERS.items():
        curves = [run(make_optimizer, s, images, digits.target) for s in range(SEEDS)]
        *accuracies, loss = np.median(curves, axis=0)
        print(f"{name:6}", *(f"{value:.1%}" for value in accuracies), f" {loss:.3f}")
    about = f"median of {SEEDS} seeds, on {jax.default_backend()}"
    print(f"test accuracy after each epoch, and test loss at the end: {about}")


if __name__ == "__main__":
    main()
