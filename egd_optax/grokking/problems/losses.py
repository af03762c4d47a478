"""Losses of the tasks: each example's loss, and whether it was answered right."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import optax


def cross_entropy(outputs: jax.Array, labels: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Cross-entropy in nats of logits ``(n, classes)``, labels ``(n,)``."""
    losses = optax.softmax_cross_entropy_with_integer_labels(outputs, labels)
    return losses, jnp.argmax(outputs, axis=-1) == labels


def squared_error(outputs: jax.Array, labels: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Mean squared difference of outputs ``(n, classes)`` from one-hots.

    A single output ``(n, 1)`` is compared with −1 for label 0 and with 1 for label 1.
    """
    classes = outputs.shape[-1]
    if classes == 1:
        targets = 2.0 * labels[:, None] - 1
        right = (outputs[:, 0] > 0) == (labels == 1)
    else:
        targets = jax.nn.one_hot(labels, classes)
        right = jnp.argmax(outputs, axis=-1) == labels
    return jnp.mean((outputs - targets) ** 2, axis=-1), right


LOSSES: dict[str, Callable[[jax.Array, jax.Array], tuple[jax.Array, jax.Array]]] = {
    "cross-entropy": cross_entropy,
    "squared-error": squared_error,
}
