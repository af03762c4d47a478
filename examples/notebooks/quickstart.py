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
# # Quickstart
#
# A two-layer net learns a + b mod p from half of all pairs. With plain SGD it memorizes
# them and stays there; with the gradient whitened it generalizes.
#
# This file is a script; `make notebooks` turns it into a notebook.

# %%
import os

import matplotlib.pyplot as plt
import numpy as np
import optax
from flax import nnx

from egd_optax import egd, inverse_time_decay
from egd_optax.grokking.problems.arithmetic import modular_arithmetic
from egd_optax.grokking.problems.models import TwoLayerNet
from egd_optax.grokking.problems.settings import Settings
from egd_optax.grokking.training.run import train

# %% [markdown]
# The test suite runs this notebook with small numbers.

# %%
quick = "EGD_OPTAX_QUICK" in os.environ
p, width, batch_size, max_steps = (7, 16, 16, 10) if quick else (97, 512, 512, 300)
seeds = (0,) if quick else (0, 1, 2)

# %% [markdown]
# ## The optimizer
#
# `egd` is an optax optimizer: whitening for every matrix, Adam for the rest. Its
# learning rate is how far every direction of a matrix moves in one step, so it is much
# larger than Adam's.

# %%
optimizers = {"EGD": egd(inverse_time_decay(1.0, 100)), "SGD": optax.sgd(0.7)}

# %% [markdown]
# ## Training
#
# `train` runs all seeds in one compiled program, and evaluates after every epoch.

# %%
task = modular_arithmetic("addition", p)
settings = Settings(
    seeds=seeds, max_steps=max_steps, batch_size=batch_size, patience=None
)


def make_model(rngs: nnx.Rngs) -> nnx.Module:
    """The net of the EGD paper."""
    return TwoLayerNet(2 * p, p, width=width, rngs=rngs)


histories = {
    name: train(task, make_model, optimizer, settings)
    for name, optimizer in optimizers.items()
}

# %% [markdown]
# ## The picture
#
# Median over the seeds: test accuracy solid, training accuracy broken.

# %%
figure, axes = plt.subplots(figsize=(7, 4), layout="constrained")
for name, history in histories.items():
    median = {
        part: 100 * np.median(history.metrics[f"{part}_accuracy"], axis=1)
        for part in ("train", "test")
    }
    (line,) = axes.plot(history.steps, median["test"], label=name)
    axes.plot(history.steps, median["train"], "--", color=line.get_color())
axes.set(xlabel="step", ylabel="accuracy in %", title=task.name)
axes.legend(frameon=False)
plt.show()

# %% [markdown]
# When did each seed first reach 95 % test accuracy? (inf: not within the budget.)

# %%
for name, history in histories.items():
    print(name, history.first_crossing(0.95).steps)
