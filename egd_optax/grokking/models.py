"""Flax models for the grokking tasks."""

import jax
from flax import nnx


class TwoLayerNet(nnx.Module):
    r"""Two-layer ReLU network, f(x) = relu(x W₁ + b) W₂.

    Weights start at N(0, 2 / fan_in), the bias at zero; the output layer has none.

    Args:
      inputs: number of input features.
      outputs: number of classes.
      width: number of hidden units.
      rngs: random streams of the initialization.

    Source: Saheb Pasand and Dohmatob, *Egalitarian Gradient Descent*, arXiv 2510.04930.
    """

    def __init__(self, inputs: int, outputs: int, *, width: int = 512, rngs: nnx.Rngs):
        init = nnx.initializers.variance_scaling(2.0, "fan_in", "normal")
        self.hidden = nnx.Linear(inputs, width, kernel_init=init, rngs=rngs)
        self.output = nnx.Linear(
            width, outputs, use_bias=False, kernel_init=init, rngs=rngs
        )

    def __call__(self, x: jax.Array) -> jax.Array:
        """Logits ``(..., outputs)`` of inputs ``(..., inputs)``."""
        return self.output(nnx.relu(self.hidden(x)))
