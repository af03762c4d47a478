"""Training steps, and parts of them, compiled and timed against each other."""

import dataclasses
import itertools
import statistics
import time
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx

from benchmarks.speed import _gpt2
from egd_optax import scale_by_egd
from egd_optax.grokking.methods.matrices import all_matrices
from egd_optax.grokking.problems.losses import LOSSES
from egd_optax.grokking.problems.problem import Problem
from egd_optax.grokking.problems.tasks import split
from egd_optax.grokking.recipes import RECIPES
from egd_optax.leaves.layouts import WeightDimensionNumbers
from egd_optax.polar.linear_algebra import adjoint, gram_matrix


@dataclasses.dataclass(frozen=True)
class Model:
    """What is trained: parameters, how a batch gives their gradient, the batches."""

    name: str
    params: Any
    gradient: Callable[[Any, Any], Any]
    batches: list[Any]  # taken in turns
    numbers: WeightDimensionNumbers
    learning_rate: float  # of egd
    update_only: bool = False  # the gradient is given, not computed


def workbench(name: str, problem: Problem) -> Model:
    """A model of the workbench on its training examples."""
    task, size = problem.task, problem.settings.batch_size
    graph, params = nnx.split(problem.make_model(nnx.Rngs(0)), nnx.Param)
    train = np.asarray(split(len(task.labels), jax.random.key(0)).train)

    def loss(params: Any, batch: Any) -> jax.Array:
        inputs, labels = batch
        return LOSSES[task.loss](nnx.merge(graph, params)(inputs), labels)[0].mean()

    chunks = [train[first : first + size] for first in range(0, len(train), size)]
    return Model(
        name,
        params,
        jax.grad(loss),
        [
            jax.device_put((task.inputs[chunk], task.labels[chunk]))
            for chunk in chunks
            if len(chunk) == size
        ],
        all_matrices,
        RECIPES["egd"].settings[problem.family]["learning_rate"],
    )


def gpt2(width: int, layers: int) -> Model:
    """A tree of parameters; its gradient is a stand-in, other normal numbers."""
    params = jax.device_put(_gpt2.parameters(width, layers))
    rolled = jax.tree.map(lambda x: jnp.roll(x, 1), params)
    name = f"gpt-2, {layers} of {width}, update"
    return Model(
        name,
        params,
        lambda _, batch: batch,
        [rolled],
        _gpt2.matrices,
        learning_rate=0.02,
        update_only=True,
    )


def by_epochs(model: Model) -> Model:
    """The same with all batches of an epoch as one, for steps in a compiled loop."""
    return dataclasses.replace(
        model, batches=[jax.tree.map(lambda *each: jnp.stack(each), *model.batches)]
    )


class Training:
    """A model in training by one optimizer.

    Args:
      model: what is trained.
      optimizer: by what.
      in_a_loop: a call takes a step for each entry of its batch, in one program.
    """

    def __init__(
        self,
        model: Model,
        optimizer: optax.GradientTransformation,
        *,
        in_a_loop: bool = False,
    ):
        tx = optax.with_extra_args_support(optimizer)

        def update(grads: Any, state: Any, params: Any) -> Any:
            # As memorized: what waits for that is at work.
            memorized = jnp.ones([])
            updates, state = tx.update(grads, state, params, train_accuracy=memorized)
            return optax.apply_updates(params, updates), state

        def step(params: Any, state: Any, batch: Any) -> Any:
            return update(model.gradient(params, batch), state, params)

        def steps(params: Any, state: Any, batches: Any) -> Any:
            def body(carry: Any, batch: Any) -> Any:
                return step(*carry, batch), None

            return jax.lax.scan(body, (params, state), batches)[0]

        self.update = update
        # Its own: a step is given them for good, as in a training loop.
        self.params = jax.tree.map(jnp.copy, model.params)
        self.state = jax.jit(tx.init)(self.params)
        self.step, self.compile_seconds = compiled(
            steps if in_a_loop else step,
            *(self.params, self.state, model.batches[0]),
            donated=(0, 1),
        )

    def __call__(self, batch: Any) -> Any:
        self.params, self.state = self.step(self.params, self.state, batch)
        return self.params


class Gradient:
    """Forward and backward pass of another training's step."""

    def __init__(self, model: Model, training: Training):
        self.training = training
        self.program, self.compile_seconds = compiled(
            model.gradient, training.params, model.batches[0]
        )

    def __call__(self, batch: Any) -> Any:
        return self.program(self.training.params, batch)


class Part:
    """What follows the gradient in another training's step, or a part of that."""

    def __init__(self, gradient: Gradient, batch: Any, part: Callable[..., Any]):
        self.gradient, self.training = gradient, gradient.training
        self.program, self.compile_seconds = compiled(
            part, gradient(batch), self.training.state, self.training.params
        )

    def prepare(self, batch: Any) -> None:
        """Before the clock runs: the gradient that the part starts from."""
        self.grads = jax.block_until_ready(self.gradient(batch))

    def __call__(self, batch: Any) -> Any:
        return self.program(self.grads, self.training.state, self.training.params)


def parts(model: Model, training: Training) -> dict[str, Gradient | Part]:
    """Parts of the step of egd, each after the first within the one before."""
    gradient = Gradient(model, training)

    def part(fn: Callable[..., Any]) -> Part:
        return Part(gradient, model.batches[0], fn)

    def whitening(polar_fn: Callable[[jax.Array], jax.Array] | None) -> Part:
        tx = scale_by_egd(polar_fn, weight_dimension_numbers=model.numbers)
        return part(lambda grads, *_: tx.update(grads, tx.init(grads))[0])

    return {
        "forward and backward": gradient,
        "update": part(training.update),
        "whitening": whitening(None),
        "Gram and one eigh": whitening(_gram_and_eigh),
    }


def milliseconds(
    steps: Mapping[str, Callable[[Any], Any]],
    batches: list[Any],
    repeats: int,
    max_seconds: float,
) -> dict[str, float]:
    """Median time of a warm call, the steps taking turns.

    What takes longer than ``max_seconds``, all its calls together, is left out.
    """
    times: dict[str, list[float]] = {name: [] for name in steps}
    for turn, batch in zip(range(repeats + 1), itertools.cycle(batches), strict=False):
        for name, step in steps.items():
            if turn and times[name][0] * repeats > max_seconds:
                continue
            if isinstance(step, Part):
                step.prepare(batch)
            start = time.perf_counter()
            jax.block_until_ready(step(batch))
            times[name].append(time.perf_counter() - start)
    return {
        name: 1e3 * statistics.median(found[1:])
        for name, found in times.items()
        if len(found) > 1
    }


def compiled(
    fn: Callable[..., Any], *args: Any, donated: tuple[int, ...] = ()
) -> tuple[Any, float]:
    """The program, and the seconds that lowering and compiling took."""
    start = time.perf_counter()
    program = jax.jit(fn, donate_argnums=donated).lower(*args).compile()
    return program, time.perf_counter() - start


def _gram_and_eigh(x: jax.Array) -> jax.Array:
    wide = x if x.shape[-2] <= x.shape[-1] else adjoint(x)
    gram = gram_matrix(wide)
    vectors = jax.lax.linalg.eigh(gram, symmetrize_input=False)[0]
    # The shape of x again, at no cost.
    return x + vectors[..., :1, :1]
