r"""The two-feature problem on which the plateau of grokking can be computed.

Features z ~ N(0, diag(1, ε)); a linear model learns the sign of z₁ by squared error
from examples with abs(z₁) ≥ s, and is tested where the feature z·v, at angle θ to z₁,
has the other sign than z₁. It generalizes once it has forgotten the weight that it
started with on z₂, which gradient descent does at the rate η ε.

Source: Saheb Pasand and Dohmatob, *Egalitarian Gradient Descent*, arXiv 2510.04930,
Theorem 1.
"""

import dataclasses
import math
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import lax


@dataclasses.dataclass(frozen=True)
class Toy:
    """The problem's numbers; those of the paper's Figure 6 but for ε."""

    epsilon: float = 0.01  # variance of the second feature
    margin: float = 0.5  # s
    angle: float = math.pi / 8  # θ, in radians
    start: tuple[float, float] = (1.0, 10.0)  # u, weights at step 0


def theory(toy: Toy, learning_rate: float, steps: np.ndarray) -> np.ndarray:
    """Test error of gradient descent at each step, for infinitely many examples."""
    phi = math.exp(-(toy.margin**2) / 2) / math.sqrt(2 * math.pi)
    tail = math.erfc(toy.margin / math.sqrt(2)) / 2
    m1 = phi / tail
    m2 = 1 + toy.margin * m1
    shrunk = (1 - learning_rate * m2) ** steps
    first = shrunk * toy.start[0] + (1 - shrunk) * m1 / m2
    second = (1 - learning_rate * toy.epsilon) ** steps * toy.start[1]
    reached = np.arccos(first / np.hypot(first, math.sqrt(toy.epsilon) * second))
    tangent = math.sqrt(toy.epsilon) * math.tan(toy.angle)
    return np.minimum(1, reached / np.arctan(tangent))


def plateau(toy: Toy, learning_rate: float) -> float:
    """Steps until the test error of gradient descent starts to fall, to first order.

    log τ / (η ε) with τ = u₂ m₂ / (m₁ tan θ): the form that the paper's proof gives;
    its statement has tan θ in the numerator.
    """
    phi = math.exp(-(toy.margin**2) / 2) / math.sqrt(2 * math.pi)
    m1 = phi / (math.erfc(toy.margin / math.sqrt(2)) / 2)
    tau = toy.start[1] * (1 + toy.margin * m1) / (m1 * math.tan(toy.angle))
    return -math.log(tau) / math.log1p(-learning_rate * toy.epsilon)


def simulate(
    toy: Toy,
    optimizer: optax.GradientTransformation,
    steps: Sequence[int],
    *,
    outputs: int = 1,
    newton: bool = False,
    seed: int = 0,
    examples: int = 100_000,
) -> np.ndarray:
    """Test error at the given steps, trained and tested on drawn examples.

    Args:
      toy: the problem.
      optimizer: of the weights ``(2, outputs)``.
      steps: ascending numbers of steps.
      outputs: 1, a score whose sign is the answer; or 2, one for each answer with the
        labels ±1, of which the larger counts. The gradient of one output is a vector,
        whose polar factor is only its direction; that of two is a matrix.
      newton: multiplies the gradient by the inverse second moments of the features:
        what the paper calls EGD on this problem.
      seed: of the examples.
      examples: number of training examples, an even one. They come in pairs, mirrored
        in the second feature: of independent ones the optimum has a weight of about
        1 / √(ε · examples) on that feature, and for half of all seeds its sign is the
        wrong one, so that no optimizer gets the error down to 1 %.

    Returns:
      Errors in [0, 1], of the shape of ``steps``.
    """
    rng = np.random.default_rng(seed)
    draw = lambda n: rng.normal(size=(n, 2)) * [1, math.sqrt(toy.epsilon)]  # noqa: E731
    z = draw(2 * examples)
    z = z[np.abs(z[:, 0]) >= toy.margin][: examples // 2]
    z = np.concatenate([z, z * [1, -1]])
    moments = jnp.asarray(z.T @ z / len(z), jnp.float32)
    labels = np.sign(z[:, :1]) * np.array([[1, -1]])[:, :outputs]
    products = jnp.asarray(z.T @ labels / len(z), jnp.float32)
    inverse = jnp.linalg.inv(moments) if newton else jnp.eye(2)

    test = draw(20 * examples)
    v = np.array([math.cos(toy.angle), math.sin(toy.angle)])
    test = test[(test @ v) * test[:, 0] <= 0]

    # The second output starts elsewhere: equal and opposite, both would stay one.
    second = -0.3 * toy.start[0], 0.4 * toy.start[1]
    weights = jnp.array([toy.start, second]).T[:, :outputs]

    @jax.jit
    def run(first: int, last: int, weights: jax.Array, state: Any) -> Any:
        def step(_: int, carry: Any) -> Any:
            weights, state = carry
            gradient = inverse @ (moments @ weights - products)
            updates, state = optimizer.update(gradient, state, weights)
            return optax.apply_updates(weights, updates), state

        return lax.fori_loop(first, last, step, (weights, state))

    state = optimizer.init(weights)
    errors, done = [], 0
    for last in steps:
        weights, state = run(done, last, weights, state)
        done = last
        score = weights[:, 0] - (weights[:, 1] if outputs == 2 else 0)
        answers = np.sign(test @ np.asarray(score, np.float64))
        errors.append(np.mean(answers != np.sign(test[:, 0])))
    return np.array(errors)
