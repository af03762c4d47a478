"""One seed's run as functions that are compiled, and all seeds together."""

import dataclasses
import functools
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from flax import nnx
from jax import lax

from egd_optax.grokking.problems.losses import LOSSES
from egd_optax.grokking.problems.settings import Settings, batch_size, split_for
from egd_optax.grokking.problems.tasks import Split, Task


class Examples(NamedTuple):
    """A task on the device."""

    inputs: jax.Array
    labels: jax.Array


class Member(NamedTuple):
    """One seed's state."""

    key: jax.Array
    split: Split
    params: Any
    opt_state: optax.OptState
    metrics: dict[str, jax.Array]  # of the last evaluation; zeros before the first


@dataclasses.dataclass(frozen=True)
class Program:
    """The functions of a run that are compiled; each takes one seed's member."""

    task: Task
    make_model: Callable[[nnx.Rngs], nnx.Module]
    optimizer: optax.GradientTransformationExtraArgs
    settings: Settings
    steps_per_epoch: int
    chunk: int  # most evaluations of one call of advance

    def begin(self, seed: jax.Array, data: Examples) -> Member:
        init_key, split_key, key = jax.random.split(jax.random.key(seed), 3)
        params = nnx.state(self.make_model(nnx.Rngs(init_key)), nnx.Param)
        parts = split_for(self.settings, len(data.labels), split_key)
        metrics = jax.eval_shape(self.evaluate, params, parts, data)
        return Member(
            key=key,
            split=parts,
            params=params,
            opt_state=self.optimizer.init(params),
            metrics=jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), metrics),
        )

    def advance(
        self, member: Member, first: jax.Array, count: jax.Array, data: Examples
    ) -> tuple[Member, dict[str, jax.Array]]:
        """``count`` epochs from number ``first`` on, and the metrics after each."""

        def body(
            i: jax.Array, carry: tuple[Member, dict[str, jax.Array]]
        ) -> tuple[Member, dict[str, jax.Array]]:
            member, log = carry
            member = self.until_evaluation(member, first + i, data)
            log = jax.tree.map(lambda a, x: a.at[i].set(x), log, member.metrics)
            return member, log

        log = jax.tree.map(lambda x: jnp.zeros(self.chunk, x.dtype), member.metrics)
        return lax.fori_loop(0, count, body, (member, log))

    def until_evaluation(
        self, member: Member, number: jax.Array, data: Examples
    ) -> Member:
        epochs = self.settings.epochs_per_evaluation
        first, after = number * epochs, (number + 1) * epochs
        member = lax.fori_loop(
            first, after, lambda i, member: self.epoch(member, i, data), member
        )
        data = self.as_given(member, after - 1, data)
        metrics = self.evaluate(member.params, member.split, data)
        return member._replace(metrics=metrics)

    def epoch(self, member: Member, number: jax.Array, data: Examples) -> Member:
        shape = self.steps_per_epoch, batch_size(self.task, self.settings)
        key = jax.random.fold_in(member.key, number)
        order = jax.random.permutation(key, member.split.train)
        data = self.as_given(member, number, data)
        # What a recipe may watch: all but the test part.
        watched = {k: v for k, v in member.metrics.items() if not k.startswith("test")}

        def step(carry: Any, seen: tuple[jax.Array, jax.Array]) -> tuple[Any, None]:
            (params, opt_state), (batch, place) = carry, seen
            labels = data.labels[batch]
            if self.settings.label_noise:
                # The epoch's key has drawn the order.
                draw = jax.random.fold_in(jax.random.fold_in(key, 1), place)
                labels = self.some_wrong(draw, labels, self.settings.label_noise)
            grads, _ = jax.grad(self.judge, has_aux=True)(
                params, data.inputs[batch], labels
            )
            updates, opt_state = self.optimizer.update(
                grads, opt_state, params, **watched
            )
            return (optax.apply_updates(params, updates), opt_state), None

        (params, opt_state), _ = lax.scan(
            step,
            (member.params, member.opt_state),
            (order[: math.prod(shape)].reshape(shape), jnp.arange(shape[0])),
        )
        return member._replace(params=params, opt_state=opt_state)

    def as_given(self, member: Member, number: jax.Array, data: Examples) -> Examples:
        """The labels as an epoch's training part has them."""
        labels, train = data.labels, member.split.train
        # Streams of their own, apart from those of the epochs.
        if self.settings.corrupted_labels:
            # The part is in random order.
            wrong = train[: round(self.settings.corrupted_labels * len(train))]
            key = jax.random.fold_in(member.key, 2**31 + 1)
            labels = labels.at[wrong].set(self.some_wrong(key, labels[wrong], 1.0))
        if self.settings.relabel_every is not None:
            key = jax.random.fold_in(member.key, 2**31)
            key = jax.random.fold_in(key, number // self.settings.relabel_every)
            shuffled = labels[jax.random.permutation(key, train)]
            labels = labels.at[train].set(shuffled)
        return data._replace(labels=labels)

    def some_wrong(self, key: jax.Array, labels: jax.Array, share: float) -> jax.Array:
        """Each label another one with this probability, all others as likely."""
        which, by = jax.random.split(key)
        wrong = jax.random.bernoulli(which, share, labels.shape)
        shift = jax.random.randint(by, labels.shape, 1, self.task.classes)
        return jnp.where(wrong, (labels + shift) % self.task.classes, labels)

    def evaluate(
        self, params: Any, parts: Split, data: Examples
    ) -> dict[str, jax.Array]:
        metrics: dict[str, jax.Array] = {}
        for part, indices in parts._asdict().items():
            if len(indices):
                loss, accuracy = self.measure(params, indices, data)
                metrics |= {f"{part}_loss": loss, f"{part}_accuracy": accuracy}
        return metrics

    def measure(
        self, params: Any, indices: jax.Array, data: Examples
    ) -> tuple[jax.Array, jax.Array]:
        """Mean loss and accuracy over some examples."""
        return self.judge(params, data.inputs[indices], data.labels[indices])

    def judge(
        self, params: Any, inputs: jax.Array, labels: jax.Array
    ) -> tuple[jax.Array, jax.Array]:
        """Mean loss and accuracy of what the model makes of inputs."""
        outputs = nnx.merge(self.graphdef, params)(inputs)
        losses, right = LOSSES[self.task.loss](outputs, labels)
        return jnp.mean(losses), jnp.mean(right, dtype=jnp.float32)

    @functools.cached_property
    def graphdef(self) -> nnx.GraphDef[nnx.Module]:
        return nnx.split(nnx.eval_shape(lambda: self.make_model(nnx.Rngs(0))))[0]
