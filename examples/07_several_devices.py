"""Several devices: data parallel, each whitens its share of the matrices.

The batch is split over the devices by its sharding, and XLA sums the gradients. As
these lie on a mesh, `egd` spreads their matrices over its devices, without a word more.
Eight CPU devices stand in where there is no GPU.

    python examples/07_several_devices.py
"""

import os
import sys

os.environ["XLA_FLAGS"] = " ".join(
    [os.environ.get("XLA_FLAGS", ""), "--xla_force_host_platform_device_count=8"]
)

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

from egd_optax import egd

QUICK = "--quick" in sys.argv
LAYERS, WIDTH, BATCH, STEPS = (8, 8, 16, 2) if QUICK else (16, 64, 512, 50)

mesh = jax.make_mesh((len(jax.devices()),), ("data",), axis_types=(AxisType.Auto,))
split, everywhere = NamedSharding(mesh, P("data")), NamedSharding(mesh, P())


def init(key):
    keys = jax.random.split(key, LAYERS)
    scale = (2 / WIDTH) ** 0.5
    return {
        f"layer{i}": jax.random.normal(k, (WIDTH, WIDTH)) * scale
        for i, k in enumerate(keys)
    }


def loss_fn(params, x, y):
    for kernel in params.values():
        x = x + 0.1 * jax.nn.relu(x @ kernel)
    return jnp.mean((x - y) ** 2)


def train(batch_sharding):
    """The losses of all steps; parameters are on every device of the sharding."""
    optimizer = egd(0.01)
    rng = np.random.default_rng(0)
    rotation = np.linalg.qr(rng.normal(size=(WIDTH, WIDTH)))[0].astype(np.float32)
    params = init(jax.random.key(0))
    if batch_sharding is split:
        params = jax.device_put(params, everywhere)
    state = optimizer.init(params)

    @jax.jit
    def step(params, state, x, y):
        loss, grads = jax.value_and_grad(loss_fn)(params, x, y)
        updates, state = optimizer.update(grads, state, params)
        return optax.apply_updates(params, updates), state, loss

    losses = []
    for _ in range(STEPS):
        x = rng.normal(size=(BATCH, WIDTH)).astype(np.float32)
        x, y = jax.device_put((x, x @ rotation), batch_sharding)
        params, state, loss = step(params, state, x, y)
        losses.append(float(loss))
    devices = len(params["layer0"].sharding.device_set)
    print(f"loss {losses[0]:.4f} -> {losses[-1]:.4f} on {devices} devices")
    return losses


def main():
    one = train(jax.devices()[0])
    several = train(split)
    np.testing.assert_allclose(one, several, rtol=1e-2)


if __name__ == "__main__":
    main()
