# ---
# jupyter:
#   jupytext:
#     text_representation:
#       extension: .py
#       format_name: percent
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # The gradient spectrum of a grokking run
#
# Why is there a plateau? The gradient of a weight matrix has large and small singular
# values. Gradient descent moves along each singular direction at the speed of its
# value: what is large is learned soon, what is small late. EGD moves all of them alike.
# This notebook looks at the values while a net groks with EGD.

# %%
import os

import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np
import optax

from egd_optax import effective_ranks, egd, singular_values

quick = "EGD_OPTAX_QUICK" in os.environ
p, width, steps = (7, 16, 20) if quick else (31, 256, 300)

# %% [markdown]
# ## Data and net
#
# All pairs (a, b) as two one-hots; half of them for training.

# %%
a, b = (side.ravel() for side in np.meshgrid(np.arange(p), np.arange(p)))
x = jnp.concatenate([jnp.eye(p)[a], jnp.eye(p)[b]], axis=1)
y = jnp.asarray((a + b) % p)
train, test = np.array_split(np.random.default_rng(0).permutation(p * p), 2)


def init(key):
    """Two matrices, He-normal."""
    first, second = jax.random.split(key)
    return {
        "hidden": jax.random.normal(first, (2 * p, width)) * p**-0.5,
        "output": jax.random.normal(second, (width, p)) * (2 / width) ** 0.5,
    }


def measure(params, part):
    """Loss and accuracy."""
    logits = jax.nn.relu(x[part] @ params["hidden"]) @ params["output"]
    losses = optax.softmax_cross_entropy_with_integer_labels(logits, y[part])
    return losses.mean(), jnp.mean(jnp.argmax(logits, axis=-1) == y[part])


# %% [markdown]
# ## Logging from the optimizer's state
#
# `optax.snapshot` evaluates a function of the updates that pass through it, and keeps
# the result in the state. In front of the optimizer it sees the raw gradient.

# %%
optimizer = optax.chain(
    optax.snapshot("spectrum", singular_values),
    optax.snapshot("rank", effective_ranks),
    egd(learning_rate=0.7),
)


def step(carry, _):
    """One update; logs the accuracies, the spectrum and its effective rank."""
    params, state = carry
    grads, train_accuracy = jax.grad(measure, has_aux=True)(params, train)
    updates, state = optimizer.update(grads, state, params)
    params = optax.apply_updates(params, updates)
    spectrum, rank = (optax.tree.get(state, k)["hidden"] for k in ("spectrum", "rank"))
    return (params, state), (train_accuracy, measure(params, test)[1], spectrum, rank)


params = init(jax.random.key(0))
_, log = jax.jit(lambda carry: jax.lax.scan(step, carry, length=steps))(
    (params, optimizer.init(params))
)
train_accuracy, test_accuracy, spectrum, rank = map(np.asarray, log)

# %% [markdown]
# ## The picture
#
# The rows of the gradient that belong to a have the same sum as those that belong to b,
# so that the last singular value is zero up to rounding; it is left out.

# %%
figure, (top, bottom) = plt.subplots(2, 1, figsize=(7, 6), sharex=True)
top.plot(spectrum[:, : -1 : max(1, p // 8)], color="#999999", lw=0.8)
top.plot(spectrum[:, 0], label="largest")
top.plot(spectrum[:, -2], label="smallest")
top.set(yscale="log", ylabel="singular values of the gradient")
top.legend(frameon=False)
bottom.plot(100 * train_accuracy, "--", label="train")
bottom.plot(100 * test_accuracy, label="test")
bottom.set(xlabel="step", ylabel="accuracy in %")
bottom.legend(frameon=False)
plt.show()

# %% [markdown]
# Condition number and effective rank in the middle of the run:

# %%
middle = steps // 2
print(f"condition number {spectrum[middle, 0] / spectrum[middle, -2]:.0f}")
print(f"effective rank {rank[middle]:.0f} of {2 * p - 1}")
