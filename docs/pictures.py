"""Draws the pictures of docs/concepts.md.

python docs/pictures.py
"""

import contextlib
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
from matplotlib.figure import Figure

from egd_optax import (
    add_frobenius_penalty,
    scale_by_egd,
    singular_values,
    switch_on_metric,
)

HERE = Path(__file__).parent
BLUE, ORANGE, GREY = "#0072B2", "#D55E00", "#999999"


@contextlib.contextmanager
def drawn(name, **axes_settings):
    figure = Figure(figsize=(6.4, 3.2), layout="constrained")
    axes = figure.subplots()
    axes.spines[["top", "right"]].set_visible(False)
    axes.set(**axes_settings)
    yield axes
    axes.legend(frameon=False)
    figure.savefig(HERE / "pictures" / name, dpi=120, metadata={"Software": None})


def whitening():
    """Singular values of one gradient before and after."""
    rng = np.random.default_rng(0)
    u, _ = np.linalg.qr(rng.normal(size=(40, 40)))
    v, _ = np.linalg.qr(rng.normal(size=(60, 40)))
    gradient = jnp.asarray(u * np.logspace(0, -5, 40) @ v.T, jnp.float32)
    tx = scale_by_egd()
    updates, _ = tx.update(gradient, tx.init(gradient))
    with drawn(
        "whitening.png", yscale="log", xlabel="direction", ylabel="singular value"
    ) as axes:
        axes.plot(singular_values(gradient), "o-", ms=3, color=GREY, label="gradient")
        axes.plot(singular_values(updates), "o-", ms=3, color=BLUE, label="whitened")


def decay():
    """Weights under each decay, where the gradient of the loss is zero."""
    orders = {
        "decay after the whitening": optax.chain(
            scale_by_egd(), add_frobenius_penalty(0.5), optax.scale(-0.1)
        ),
        "decay before the whitening": optax.chain(
            add_frobenius_penalty(0.5), scale_by_egd(), optax.scale(-0.1)
        ),
    }
    with drawn(
        "decay.png", xlabel="step", ylabel="largest singular value of W"
    ) as axes:
        for (name, tx), color in zip(orders.items(), (BLUE, ORANGE), strict=True):
            weights, norms = 3 * jnp.eye(4), []
            state = tx.init(weights)
            for _ in range(40):
                norms.append(singular_values(weights)[0])
                updates, state = tx.update(jnp.zeros((4, 4)), state, weights)
                weights = optax.apply_updates(weights, updates)
            axes.plot(norms, color=color, label=name)


def switch():
    """The latch of a switch beside the metric that it watches."""
    steps = jnp.arange(60)
    metric = (
        0.55
        + 0.5 * jnp.tanh((steps - 18) / 9)
        - 0.3 * jnp.exp(-((steps - 40) ** 2) / 20)
    )
    tx = switch_on_metric("metric", 0.9, optax.identity(), optax.identity())
    _, switched = jax.lax.scan(
        lambda state, value: 2 * (tx.update(jnp.zeros(1), state, metric=value)[1],),
        tx.init(jnp.zeros(1)),
        metric,
    )
    with drawn("switch.png", xlabel="step", ylabel="metric") as axes:
        axes.plot(steps, metric, color=BLUE, label="metric")
        axes.axhline(0.9, color=GREY, ls=":", label="threshold")
        axes.fill_between(
            steps,
            0,
            1.1,
            where=switched.switched,
            color=ORANGE,
            alpha=0.15,
            label="after",
        )


def main():
    for picture in (whitening, decay, switch):
        picture()


if __name__ == "__main__":
    main()
