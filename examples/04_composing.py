"""Composing: EGD, Grokfast and a delayed penalty; EGD off on validation accuracy.

A chain is read from top to bottom: the filter sees the raw gradient, the penalty is
whitened with the gradient, the decay is not. The second optimizer whitens until 95 % of
a validation part are right, and goes on as Adam. Both switches are told metrics of the
training part and of a part held out of it, never of the test part.

    python examples/04_composing.py

Seen: the chain is at 99.6 % test accuracy at step 90. Switched off, it stays near 95 %:
Adam with this learning rate does not finish what EGD began.
"""

import sys

import jax
import jax.numpy as jnp
import numpy as np
import optax

from egd_optax import (
    delayed_frobenius_penalty,
    egd,
    grokfast_ema,
    inverse_time_decay,
    scale_by_egd,
    switch_on_metric,
)

QUICK = "--quick" in sys.argv
P, STEPS, EVERY = (11, 10, 5) if QUICK else (61, 300, 30)

together = optax.chain(
    grokfast_ema(alpha=0.8, lamb=1.0),
    delayed_frobenius_penalty(1e-5, metric="train_accuracy", threshold=0.99),
    scale_by_egd(),
    optax.add_decayed_weights(0.05),
    optax.scale_by_learning_rate(0.7),
)
switched_off = switch_on_metric(
    "validation_accuracy",
    0.95,
    before=egd(inverse_time_decay(1.0, 100)),
    after=optax.adamw(1e-3, weight_decay=0.1),
)


def logits_of(params, x):
    return jax.nn.relu(x @ params["hidden"] + params["bias"]) @ params["output"]


@jax.jit
def measure(params, x, y):
    logits = logits_of(params, x)
    losses = optax.softmax_cross_entropy_with_integer_labels(logits, y)
    return losses.mean(), jnp.mean(jnp.argmax(logits, axis=-1) == y)


def run(name, optimizer, x, y, parts):
    train, validation, _ = parts
    first, second = jax.random.split(jax.random.key(0))
    params = {
        "hidden": jax.random.normal(first, (2 * P, 256)) * P**-0.5,
        "bias": jnp.zeros(256),
        "output": jax.random.normal(second, (256, P)) * (2 / 256) ** 0.5,
    }
    state = optimizer.init(params)

    @jax.jit
    def step(params, state):
        grads, accuracy = jax.grad(measure, has_aux=True)(params, x[train], y[train])
        updates, state = optimizer.update(
            grads,
            state,
            params,
            train_accuracy=accuracy,
            validation_accuracy=measure(params, x[validation], y[validation])[1],
        )
        return optax.apply_updates(params, updates), state

    for number in range(1, STEPS + 1):
        params, state = step(params, state)
        if number % EVERY == 0:
            accuracies = (measure(params, x[part], y[part])[1] for part in parts)
            shown = "  ".join(f"{value:6.1%}" for value in accuracies)
            switched = "switched" if optax.tree.get(state, "switched") else ""
            print(f"{name:12}  step {number:4}  {shown}  {switched}")


def main():
    a, b = (side.ravel() for side in np.meshgrid(np.arange(P), np.arange(P)))
    x = np.concatenate([np.eye(P)[a], np.eye(P)[b]], axis=1).astype(np.float32)
    y = (a + b) % P
    order = np.random.default_rng(0).permutation(P * P)
    parts = np.split(order, [int(0.45 * P * P), int(0.5 * P * P)])
    print("accuracy on the training, validation and test part")
    run("together", together, x, y, parts)
    run("switched off", switched_off, x, y, parts)


if __name__ == "__main__":
    main()
