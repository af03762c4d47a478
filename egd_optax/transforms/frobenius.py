"""A penalty on the squared Frobenius norm of the weights, at once or delayed."""

import jax
import optax

from egd_optax.leaves.checks import (
    Mask,
)
from egd_optax.transforms.penalties import add_to_gradient
from egd_optax.transforms.switching import switch_on_metric


def add_frobenius_penalty(
    strength: optax.ScalarOrSchedule, mask: Mask | None = None
) -> optax.GradientTransformationExtraArgs:
    r"""Adds the gradient of a squared Frobenius norm, summed over all weights.

    .. math:: g \leftarrow g + 2 \, \text{strength} \cdot W = g + \nabla_W \,
        \text{strength} \sum \|W\|_F^2

    Every leaf counts, vectors included, unless a mask excludes it. For complex weights
    ∇ is the conjugate of what ``jax.grad`` gives, and 2 · strength · W likewise. The
    same as ``optax.add_decayed_weights(2 * strength)``, but for the dtype, which stays
    the gradient's own. Put before a whitening the penalty is whitened with the
    gradient; put after it, it is a decoupled decay.

    Args:
      strength: factor of the penalty, a number or a schedule.
      mask: tree of booleans (or a prefix, or a function of the parameters that gives
        one): where the penalty applies.

    Returns:
      A gradient transformation whose ``update`` needs ``params``.

    Raises:
      ArgumentError: ``strength`` is neither a finite number nor a schedule, or ``mask``
        no mask; at ``update``, if ``params`` is missing or does not fit the gradients
        or the mask, or a leaf is not floating.

    Example:
      >>> import jax.numpy as jnp
      >>> from egd_optax import add_frobenius_penalty
      >>> tx = add_frobenius_penalty(0.5)
      >>> params = jnp.array([1.0, -2.0])
      >>> updates, _ = tx.update(jnp.zeros(2), tx.init(params), params)
      >>> print(updates)
      [ 1. -2.]

    Source: *A Simple Method for Accelerating Grokking* (LessWrong), where it is added
    once the training data is memorized: :func:`egd_optax.delayed_frobenius_penalty`.
    """
    return add_to_gradient(lambda params: params, strength, mask, factor=2)


def delayed_frobenius_penalty(
    strength: optax.ScalarOrSchedule = 0.01,
    *,
    metric: str = "train_accuracy",
    threshold: jax.typing.ArrayLike = 0.99,
) -> optax.GradientTransformationExtraArgs:
    r"""A squared Frobenius norm penalty that sets in once training data is memorized.

    .. math:: g \leftarrow g + 2 \, \text{strength} \cdot W \quad \text{from the first
        step on at which metric} \ge \text{threshold}

    ``switch_on_metric(metric, threshold, optax.identity(),
    add_frobenius_penalty(strength))``; put it before the optimizer, as the gradient of
    a loss term.

    Args:
      strength: factor of the penalty, a number or a schedule; a schedule counts the
        steps since the onset.
      metric: name of the extra argument of ``update`` to watch.
      threshold: value of it at which the penalty sets in.

    Returns:
      A gradient transformation whose ``update`` needs ``params`` and the metric.

    Raises:
      ArgumentError: as :func:`switch_on_metric` and
        :func:`egd_optax.add_frobenius_penalty`.

    Example:
      >>> import jax.numpy as jnp
      >>> from egd_optax import delayed_frobenius_penalty
      >>> tx = delayed_frobenius_penalty(0.5)
      >>> params = jnp.array([1.0, -2.0])
      >>> state = tx.init(params)
      >>> for accuracy in (0.5, 0.99):
      ...     updates, state = tx.update(
      ...         jnp.zeros(2), state, params, train_accuracy=accuracy
      ...     )
      ...     print(updates)
      [0. 0.]
      [ 1. -2.]

    Source: *A Simple Method for Accelerating Grokking* (LessWrong): strength 0.01 over
    all weight tensors, from a training accuracy of 0.99 on, under Adam.
    """
    return switch_on_metric(
        metric, threshold, optax.identity(), add_frobenius_penalty(strength)
    )
