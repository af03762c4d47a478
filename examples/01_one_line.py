"""One line into an existing optax script.

A two-layer ReLU net in plain JAX learns a + b mod p from half of all pairs. The script
was written for AdamW; the line that EGD takes is marked.

    python examples/01_one_line.py            # EGD
    python examples/01_one_line.py --adamw    # as it was, learning rate 1e-3, decay 1

Seen: with EGD 99.9 % test accuracy at step 100. As it was: after 1000 steps 76 % on the
training part and 0 % on the test part. (AdamW with a learning rate and decay tuned for
this task needs few steps as well: see README.)
"""

import sys

import jax
import jax.numpy as jnp
import numpy as np
import optax

from egd_optax import egd, inverse_time_decay

QUICK = "--quick" in sys.argv
P, STEPS, EVERY = (11, 20, 10) if QUICK else (97, 1000, 50)

if "--adamw" in sys.argv:
    optimizer = optax.adamw(1e-3, b2=0.98, weight_decay=1.0)
else:
    optimizer = egd(inverse_time_decay(1.0, 100))  # the line


def init(key):
    first, second = jax.random.split(key)
    return {
        "hidden": {
            "kernel": jax.random.normal(first, (2 * P, 512)) * (2 / (2 * P)) ** 0.5,
            "bias": jnp.zeros(512),
        },
        "output": {"kernel": jax.random.normal(second, (512, P)) * (2 / 512) ** 0.5},
    }


def logits_of(params, x):
    hidden = x @ params["hidden"]["kernel"] + params["hidden"]["bias"]
    return jax.nn.relu(hidden) @ params["output"]["kernel"]


def loss_fn(params, x, y):
    losses = optax.softmax_cross_entropy_with_integer_labels(logits_of(params, x), y)
    return losses.mean()


@jax.jit
def step(params, state, x, y):
    grads = jax.grad(loss_fn)(params, x, y)
    updates, state = optimizer.update(grads, state, params)
    return optax.apply_updates(params, updates), state


@jax.jit
def accuracy(params, x, y):
    return jnp.mean(jnp.argmax(logits_of(params, x), axis=-1) == y)


def main():
    a, b = (side.ravel() for side in np.meshgrid(np.arange(P), np.arange(P)))
    x = np.concatenate([np.eye(P)[a], np.eye(P)[b]], axis=1).astype(np.float32)
    y = (a + b) % P
    rng = np.random.default_rng(0)
    train, test = np.array_split(rng.permutation(P * P), 2)

    params = init(jax.random.key(0))
    state = optimizer.init(params)
    for number in range(1, STEPS + 1):
        batch = rng.choice(train, min(512, len(train)), replace=False)
        params, state = step(params, state, x[batch], y[batch])
        if number % EVERY == 0:
            seen, unseen = (accuracy(params, x[i], y[i]) for i in (train, test))
            print(f"step {number:5}  train {seen:6.1%}  test {unseen:6.1%}")
            if unseen > 0.99:
                break


if __name__ == "__main__":
    main()
