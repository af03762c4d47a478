"""Flax Linen with TrainState, and a penalty that waits for a metric.

A delayed Frobenius penalty sets in once the training data is memorized; it learns so
from the extra argument `train_accuracy`. `TrainState.apply_gradients` does not pass
extra arguments to the optimizer: the subclass below is the few lines that do.

    python examples/03_flax_linen.py
"""

import sys

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax.training.train_state import TrainState

from egd_optax import delayed_frobenius_penalty

QUICK = "--quick" in sys.argv
P, STEPS = (13, 40) if QUICK else (61, 1200)


class MetricTrainState(TrainState):
    """A TrainState whose metrics reach the optimizer as extra arguments."""

    def apply_gradients(self, *, grads, **metrics):
        updates, opt_state = self.tx.update(
            grads, self.opt_state, self.params, **metrics
        )
        params = optax.apply_updates(self.params, updates)
        return self.replace(step=self.step + 1, params=params, opt_state=opt_state)


class Net(nn.Module):
    """Two-layer ReLU net on two one-hots."""

    @nn.compact
    def __call__(self, x):
        return nn.Dense(P, use_bias=False)(nn.relu(nn.Dense(256)(x)))


def measure(logits, labels):
    losses = optax.softmax_cross_entropy_with_integer_labels(logits, labels)
    return losses.mean(), jnp.mean(jnp.argmax(logits, axis=-1) == labels)


@jax.jit
def train_step(state, x, y, train_accuracy):
    """One update; returns the accuracy that the next one is told."""

    def loss_fn(params):
        return measure(state.apply_fn({"params": params}, x), y)

    grads, accuracy = jax.grad(loss_fn, has_aux=True)(state.params)
    return state.apply_gradients(grads=grads, train_accuracy=train_accuracy), accuracy


def main():
    a, b = (side.ravel() for side in np.meshgrid(np.arange(P), np.arange(P)))
    inputs = np.concatenate([np.eye(P)[a], np.eye(P)[b]], axis=1).astype(np.float32)
    labels = (a + b) % P
    order = np.random.default_rng(0).permutation(P * P)
    train, test = order[: P * P // 2], order[P * P // 2 :]

    net = Net()
    state = MetricTrainState.create(
        apply_fn=net.apply,
        params=net.init(jax.random.key(0), inputs[:1])["params"],
        tx=optax.chain(delayed_frobenius_penalty(3e-4), optax.adam(0.02, b2=0.98)),
    )
    accuracy = jnp.array(0.0)
    for step in range(1, STEPS + 1):
        state, accuracy = train_step(state, inputs[train], labels[train], accuracy)
        if step % (STEPS // 10) == 0:
            logits = net.apply({"params": state.params}, inputs[test])
            penalty = bool(optax.tree.get(state.opt_state, "switched"))
            print(
                f"step {step:5}  train {accuracy:6.1%}  "
                f"test {measure(logits, labels[test])[1]:6.1%}  "
                f"penalty {'on' if penalty else 'off'}"
            )


if __name__ == "__main__":
    main()
