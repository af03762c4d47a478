"""What a measure sees of a run."""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import optax
from flax import nnx

from egd_optax.grokking.problems.tasks import Split, Task


class Snapshot(NamedTuple):
    """One seed's run at an evaluation.

    Gradient and update are those of one batch, as many examples of the training part as
    a step has, and of the optimizer's state as it is; nothing is applied.
    """

    params: optax.Params
    initial: optax.Params  # before the first step
    grads: optax.Updates
    updates: optax.Updates
    graphdef: nnx.GraphDef[nnx.Module]
    task: Task
    inputs: jax.Array  # (examples, ...)
    labels: jax.Array  # (examples,), int32, as the training part is given them
    split: Split
    outputs: Mapping[str, jax.Array]  # the model's, by part: of train, of test

    @property
    def model(self) -> nnx.Module:
        """The model with its parameters."""
        return nnx.merge(self.graphdef, self.params)

    def method(self, name: str, measure: str) -> Callable[..., Any]:
        """What a measure asks of the model.

        Raises:
          ValueError: the model does not have it.
        """
        model = self.model
        if not hasattr(model, name):
            raise ValueError(
                f"the measure {measure} needs a model with {name}, and "
                f"{type(model).__name__} has none"
            )
        return getattr(model, name)


# A number, or several by name.
Measure = Callable[[Snapshot], jax.Array | Mapping[str, jax.Array]]
