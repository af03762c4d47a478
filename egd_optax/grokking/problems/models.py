"""Flax models for the grokking tasks: dense and convolutional nets."""

import itertools
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jax.nn.initializers import Initializer


class TwoLayerNet(nnx.Module):
    r"""Two-layer ReLU network, f(x) = relu(x W₁ + b) W₂.

    Weights start at N(0, 2 / fan_in); the output layer has no bias.

    Args:
      inputs: number of input features.
      outputs: number of outputs.
      width: number of hidden units.
      random_bias: whether b starts at N(0, 2 / inputs), as the source has it for
        parities, and not at zero, as for modular arithmetic.
      rngs: random streams of the initialization.

    Source: Saheb Pasand and Dohmatob, *Egalitarian Gradient Descent*, arXiv 2510.04930.
    """

    def __init__(
        self,
        inputs: int,
        outputs: int,
        *,
        width: int = 512,
        random_bias: bool = False,
        rngs: nnx.Rngs,
    ):
        init = nnx.initializers.variance_scaling(2.0, "fan_in", "normal")
        bias_init: Initializer = nnx.initializers.zeros
        if random_bias:
            bias_init = nnx.initializers.normal((2 / inputs) ** 0.5)
        self.hidden = nnx.Linear(
            inputs, width, kernel_init=init, bias_init=bias_init, rngs=rngs
        )
        self.output = nnx.Linear(
            width, outputs, use_bias=False, kernel_init=init, rngs=rngs
        )

    def __call__(self, x: jax.Array) -> jax.Array:
        """Outputs ``(..., outputs)`` of inputs ``(..., inputs)``."""
        return self.output(nnx.relu(self.hidden(x)))

    def pre_activations(self, x: jax.Array) -> list[jax.Array]:
        """What comes into the hidden units of each layer, ``(..., units)``."""
        return [self.hidden(x)]

    def embeddings(self, symbols: int) -> list[jax.Array]:
        """What one-hots of two symbols side by side become, ``(symbols, units)``."""
        kernel = self.hidden.kernel[...]
        return [kernel[:symbols], kernel[symbols : 2 * symbols]]


class MLP(nnx.Module):
    """ReLU network whose parameters start ``init_scale`` times larger than usual.

    Usual is uniform between ±fan_in^(-1/2), for weights and biases alike.

    Args:
      sizes: numbers of features: of the input, of each hidden layer, of the output.
      init_scale: factor on all parameters at the start; a large one delays
        generalization.
      rngs: random streams of the initialization.

    Source: Liu et al., *Omnigrok*, arXiv 2210.01117: sizes (784, 200, 200, 10) and
    scale 8 for 1000 images of MNIST.
    """

    def __init__(
        self, sizes: Sequence[int], *, init_scale: float = 1.0, rngs: nnx.Rngs
    ):
        self.layers = nnx.List(
            nnx.Linear(
                inputs,
                outputs,
                kernel_init=_uniform(init_scale * inputs**-0.5),
                bias_init=_uniform(init_scale * inputs**-0.5),
                rngs=rngs,
            )
            for inputs, outputs in itertools.pairwise(sizes)
        )

    def __call__(self, x: jax.Array) -> jax.Array:
        """Outputs ``(..., sizes[-1])`` of inputs ``(..., sizes[0])``."""
        *hidden, output = self.layers
        for layer in hidden:
            x = nnx.relu(layer(x))
        return output(x)

    def pre_activations(self, x: jax.Array) -> list[jax.Array]:
        """What comes into the hidden units of each layer, ``(..., units)``."""
        found: list[jax.Array] = []
        for layer in [*self.layers][:-1]:
            found.append(layer(nnx.relu(found[-1]) if found else x))
        return found


class ConvNet(nnx.Module):
    """Three 3 × 3 convolutions, the last two with stride 2, and a dense layer.

    Args:
      side: height and width of the images, which have one channel.
      outputs: number of outputs.
      channels: channels of each convolution.
      rngs: random streams of the initialization.
    """

    def __init__(
        self,
        side: int,
        outputs: int,
        *,
        channels: Sequence[int] = (16, 32, 32),
        rngs: nnx.Rngs,
    ):
        self.side = side
        before = 1, *channels[:-1]
        self.convolutions = nnx.List(
            nnx.Conv(inputs, after, (3, 3), strides=1 if i == 0 else 2, rngs=rngs)
            for i, (inputs, after) in enumerate(zip(before, channels, strict=True))
        )
        for _ in channels[1:]:
            side = -(-side // 2)
        self.output = nnx.Linear(side * side * channels[-1], outputs, rngs=rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        """Outputs ``(batch, outputs)`` of flat images ``(batch, side²)``."""
        x = x.reshape(-1, self.side, self.side, 1)
        for convolution in self.convolutions:
            x = nnx.relu(convolution(x))
        return self.output(x.reshape(len(x), -1))


def _uniform(limit: float) -> Initializer:
    def init(
        key: jax.Array, shape: Any, dtype: Any = None, out_sharding: Any = None
    ) -> jax.Array:
        return jax.random.uniform(key, shape, dtype or jnp.float32, -limit, limit)

    return init
