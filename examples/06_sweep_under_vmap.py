"""Learning rate x decay x seed in one compiled program, drawn as a heat map.

Every number of `egd` may be traced, so a whole run is a function of them, and `vmap`
makes a grid of it. Colour: median step at which the validation accuracy reaches 95 %.

    python examples/06_sweep_under_vmap.py     # writes 06_sweep.png
"""

import itertools
import sys

import jax
import jax.numpy as jnp
import numpy as np
import optax
from matplotlib.figure import Figure

from egd_optax import egd

QUICK = "--quick" in sys.argv
P, WIDTH, STEPS = (5, 8, 10) if QUICK else (23, 96, 200)
RATES = np.array([0.2, 0.8] if QUICK else [0.05, 0.1, 0.2, 0.4, 0.8])
DECAYS = np.array([0.05, 0.1] if QUICK else [0.01, 0.03, 0.1, 0.3])
SEEDS = np.arange(2 if QUICK else 3)

A, B = (side.ravel() for side in np.meshgrid(np.arange(P), np.arange(P)))
X = jnp.concatenate([jnp.eye(P)[A], jnp.eye(P)[B]], axis=1)
Y = jnp.asarray((A + B) % P)


def measure(params, part):
    logits = jax.nn.relu(X[part] @ params["hidden"]) @ params["output"]
    losses = optax.softmax_cross_entropy_with_integer_labels(logits, Y[part])
    return losses.mean(), jnp.mean(jnp.argmax(logits, axis=-1) == Y[part])


def run(rate, decay, seed):
    """Validation accuracy after each step."""
    keys = jax.random.split(jax.random.key(seed), 3)
    order = jax.random.permutation(keys[0], P * P)
    train, validation = order[: 3 * P * P // 4], order[3 * P * P // 4 :]
    params = {
        "hidden": jax.random.normal(keys[1], (2 * P, WIDTH)) * P**-0.5,
        "output": jax.random.normal(keys[2], (WIDTH, P)) * (2 / WIDTH) ** 0.5,
    }
    tx = egd(rate, weight_decay=decay)

    def step(carry, _):
        params, state = carry
        grads, _ = jax.grad(measure, has_aux=True)(params, train)
        updates, state = tx.update(grads, state, params)
        params = optax.apply_updates(params, updates)
        return (params, state), measure(params, validation)[1]

    return jax.lax.scan(step, (params, tx.init(params)), length=STEPS)[1]


def main():
    grid = np.array(list(itertools.product(RATES, DECAYS, SEEDS)))
    rates, decays, seeds = jnp.asarray(grid, jnp.float32).T
    accuracy = jax.jit(jax.vmap(run))(rates, decays, seeds.astype(jnp.int32))
    reached = np.asarray(accuracy) >= 0.95
    steps = np.where(reached.any(axis=1), reached.argmax(axis=1) + 1, np.inf)
    steps = np.median(steps.reshape(len(RATES), len(DECAYS), len(SEEDS)), axis=-1)

    figure = Figure(figsize=(6, 4.5), layout="constrained")
    axes = figure.subplots()
    image = axes.imshow(np.where(np.isfinite(steps), steps, np.nan), cmap="viridis_r")
    for (i, j), value in np.ndenumerate(steps):
        text = f"{value:.0f}" if np.isfinite(value) else f">{STEPS}"
        axes.text(j, i, text, ha="center", va="center")
    axes.set_xticks(range(len(DECAYS)), DECAYS)
    axes.set_yticks(range(len(RATES)), RATES)
    axes.set(xlabel="weight decay", ylabel="learning rate")
    axes.set_title(f"steps to 95 % validation accuracy, a + b mod {P}")
    figure.colorbar(image)
    figure.savefig("06_sweep.png", dpi=120)

    print(f"{len(grid)} runs of {STEPS} steps; rows: learning rate, columns: decay")
    print("      ", *(f"{decay:>6}" for decay in DECAYS))
    for rate, row in zip(RATES, steps, strict=True):
        print(f"{rate:6}", *(f"{value:>6.0f}" for value in row))


if __name__ == "__main__":
    main()
