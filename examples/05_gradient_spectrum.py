"""Watching the spectrum of the gradient while training, with the picture.

`optax.snapshot` keeps the singular values of the gradient in the optimizer's state, so
that a compiled training loop can log them. SGD moves the directions at the speed of
their singular values; EGD moves all of them alike.

    python examples/05_gradient_spectrum.py     # writes 05_gradient_spectrum.png
"""

import sys

import jax
import jax.numpy as jnp
import numpy as np
import optax
from matplotlib.figure import Figure

from egd_optax import scale_by_egd, singular_values

QUICK = "--quick" in sys.argv
P, STEPS = (7, 20) if QUICK else (31, 300)


def optimizer(whiten, learning_rate):
    return optax.chain(
        optax.snapshot("spectrum", singular_values),
        scale_by_egd() if whiten else optax.identity(),
        optax.add_decayed_weights(0.07 if whiten else 1e-4),
        optax.scale_by_learning_rate(learning_rate),
    )


def measure(params, x, y):
    hidden = jax.nn.relu(x @ params["hidden"])
    logits = hidden @ params["output"]
    losses = optax.softmax_cross_entropy_with_integer_labels(logits, y)
    return losses.mean(), jnp.mean(jnp.argmax(logits, axis=-1) == y)


def run(tx, x, y, train, test):
    """Test accuracy and singular values of the hidden layer's gradient, each step."""
    first, second = jax.random.split(jax.random.key(0))
    params = {
        "hidden": jax.random.normal(first, (2 * P, 256)) * P**-0.5,
        "output": jax.random.normal(second, (256, P)) * (2 / 256) ** 0.5,
    }

    def step(carry, _):
        params, state = carry
        grads, _ = jax.grad(measure, has_aux=True)(params, x[train], y[train])
        updates, state = tx.update(grads, state, params)
        params = optax.apply_updates(params, updates)
        spectrum = optax.tree.get(state, "spectrum")["hidden"]
        return (params, state), (measure(params, x[test], y[test])[1], spectrum)

    return jax.jit(lambda c: jax.lax.scan(step, c, length=STEPS)[1])(
        (params, tx.init(params))
    )


def main():
    a, b = (side.ravel() for side in np.meshgrid(np.arange(P), np.arange(P)))
    x = jnp.concatenate([jnp.eye(P)[a], jnp.eye(P)[b]], axis=1)
    y = jnp.asarray((a + b) % P)
    train, test = np.array_split(np.random.default_rng(0).permutation(P * P), 2)

    figure = Figure(figsize=(10, 6), layout="constrained")
    axes = figure.subplots(2, 2, sharex=True, sharey="row")
    for column, (name, tx) in enumerate(
        {"SGD": optimizer(False, 0.7), "EGD": optimizer(True, 0.7)}.items()
    ):
        accuracy, spectrum = run(tx, x, y, train, test)
        # The rows of a and those of b have the same sum: the last value is zero.
        largest, smallest = spectrum[:, 0], spectrum[:, -2]
        top, bottom = axes[:, column]
        top.plot(spectrum[:, : -1 : max(1, P // 8)], color="#999999", lw=0.7)
        top.plot(largest, color="#D55E00", label="largest")
        top.plot(smallest, color="#0072B2", label="smallest")
        top.set(yscale="log", title=name, ylabel="singular values of the gradient")
        top.legend(frameon=False)
        bottom.plot(100 * accuracy, color="#009E73")
        bottom.set(xlabel="step", ylabel="test accuracy in %", ylim=(-2, 102))
        condition = np.median(largest / smallest)
        print(f"{name}: median condition number {condition:.0f}, ", end="")
        print(f"test accuracy {accuracy[-1]:.1%} at step {STEPS}")
    figure.savefig("05_gradient_spectrum.png", dpi=120)


if __name__ == "__main__":
    main()
