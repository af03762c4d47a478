"""One seed's run as functions that are compiled, and all seeds together."""

import dataclasses
import functools
import math
from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from flax import nnx
from jax import lax

from egd_optax.grokking.problems.losses import LOSSES
from egd_optax.grokking.problems.settings import Settings, batch_size, split_for
from egd_optax.grokking.problems.tasks import Split, Task
from egd_optax.grokking.training.devices import over_examples
from egd_optax.grokking.training.snapshots import Measure, Snapshot


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
    initial: Any = None  # parameters at the start, where there are measures


@dataclasses.dataclass(frozen=True)
class Program:
    """The functions of a run that are compiled; each takes one seed's member."""

    task: Task
    make_model: Callable[[nnx.Rngs], nnx.Module]
    optimizer: optax.GradientTransformationExtraArgs
    settings: Settings
    steps_per_epoch: int
    chunk: int  # most evaluations of one call of advance
    measures: Mapping[str, Measure] = dataclasses.field(default_factory=dict)

    def begin(self, seed: jax.Array, data: Examples) -> Member:
        init_key, split_key, key = jax.random.split(jax.random.key(seed), 3)
        params = nnx.state(self.make_model(nnx.Rngs(init_key)), nnx.Param)
        parts = split_for(self.settings, len(data.labels), split_key)
        looked_at = self.looked_at(parts)
        outputs = jax.eval_shape(self.outputs, params, looked_at, data)
        metrics = jax.eval_shape(self.judged_by_part, outputs, looked_at, data)
        member = Member(
            key=key,
            split=parts,
            params=params,
            opt_state=self.optimizer.init(params),
            metrics=_zeros(metrics),
            initial=params if self.measures else None,
        )
        measured = _zeros(jax.eval_shape(self.measured, member, outputs, data))
        return member._replace(metrics=member.metrics | measured)

    def advance(
        self,
        member: Member,
        stayed: jax.Array | int,
        first: jax.Array,
        count: jax.Array,
        data: Examples,
    ) -> tuple[Member, dict[str, jax.Array]]:
        """``count`` epochs from number ``first`` on, and the metrics after each.

        A member that has ``stayed`` at the threshold for as many evaluations as the
        settings' patience rests, and its metrics stay those of its last evaluation.
        """
        patience, threshold = self.settings.patience, self.settings.threshold

        def goes_on(carry: tuple[jax.Array, jax.Array, Member, Any]) -> jax.Array:
            i, stayed, *_ = carry
            return i < count if patience is None else (i < count) & (stayed < patience)

        def body(carry: tuple[jax.Array, jax.Array, Member, Any]) -> Any:
            i, stayed, member, log = carry
            member = self.until_evaluation(member, first + i, data)
            log = jax.tree.map(lambda a, x: a.at[i].set(x), log, member.metrics)
            above = member.metrics["test_accuracy"] >= threshold
            return i + 1, jnp.where(above, stayed + 1, 0), member, log

        log = jax.tree.map(lambda x: jnp.zeros(self.chunk, x.dtype), member.metrics)
        begun = jnp.zeros([], jnp.int32), jnp.asarray(stayed, jnp.int32), member, log
        done, _, member, log = lax.while_loop(goes_on, body, begun)
        rests = jnp.arange(self.chunk) >= done
        log = jax.tree.map(lambda a, x: jnp.where(rests, x, a), log, member.metrics)
        return member, log

    def until_evaluation(
        self, member: Member, number: jax.Array, data: Examples
    ) -> Member:
        epochs = self.settings.epochs_per_evaluation
        first, after = number * epochs, (number + 1) * epochs
        member = lax.fori_loop(
            first, after, lambda i, member: self.epoch(member, i, data), member
        )
        data = self.as_given(member, after - 1, data)
        looked_at = self.looked_at(member.split)
        outputs = self.outputs(member.params, looked_at, data)
        metrics = self.judged_by_part(outputs, looked_at, data)
        measured = self.measured(member, outputs, data)
        return member._replace(metrics=metrics | measured)

    def epoch(self, member: Member, number: jax.Array, data: Examples) -> Member:
        shape = self.steps_per_epoch, batch_size(self.task, self.settings)
        key = jax.random.fold_in(member.key, number)
        order = jax.random.permutation(key, member.split.train)
        data = self.as_given(member, number, data)
        watched = _watched(member.metrics)

        def step(carry: Any, seen: tuple[jax.Array, jax.Array]) -> tuple[Any, None]:
            (params, opt_state), (batch, place) = carry, seen
            labels = data.labels[batch]
            if _is_asked_for(self.settings.label_noise):
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
        if _is_asked_for(self.settings.corrupted_labels):
            # The part is in random order.
            count = jnp.round(self.settings.corrupted_labels * len(train))
            key = jax.random.fold_in(member.key, 2**31 + 1)
            others = self.some_wrong(key, labels[train], 1.0)
            first = jnp.arange(len(train)) < count
            labels = labels.at[train].set(jnp.where(first, others, labels[train]))
        if self.settings.relabel_every is not None:
            key = jax.random.fold_in(member.key, 2**31)
            key = jax.random.fold_in(key, number // self.settings.relabel_every)
            shuffled = labels[jax.random.permutation(key, train)]
            labels = labels.at[train].set(shuffled)
        return data._replace(labels=labels)

    def some_wrong(self, key: jax.Array, labels: jax.Array, share: Any) -> jax.Array:
        """Each label another one with this probability, all others as likely."""
        which, by = jax.random.split(key)
        wrong = jax.random.bernoulli(which, share, labels.shape)
        shift = jax.random.randint(by, labels.shape, 1, self.task.classes)
        return jnp.where(wrong, (labels + shift) % self.task.classes, labels)

    def looked_at(self, parts: Split) -> Split:
        """What of the parts an evaluation looks at."""
        return parts

    def outputs(
        self, params: Any, parts: Split, data: Examples
    ) -> dict[str, jax.Array]:
        """What the model makes of each part that is not empty."""
        return {
            part: over_examples(
                lambda some: self.answers(params, data.inputs[some]), indices
            )
            for part, indices in parts._asdict().items()
            if len(indices)
        }

    def judged_by_part(
        self, outputs: Mapping[str, jax.Array], parts: Split, data: Examples
    ) -> dict[str, jax.Array]:
        metrics: dict[str, jax.Array] = {}
        for part, answers in outputs.items():
            labels = data.labels[getattr(parts, part)]
            loss, accuracy = self.judged(answers, labels)
            metrics |= {f"{part}_loss": loss, f"{part}_accuracy": accuracy}
        return metrics

    def measured(
        self, member: Member, outputs: Mapping[str, jax.Array], data: Examples
    ) -> dict[str, jax.Array]:
        """What the measures say, which nothing of the run depends on."""
        if not self.measures:
            return {}
        batch = member.split.train[: batch_size(self.task, self.settings)]
        grads, _ = jax.grad(self.judge, has_aux=True)(
            member.params, data.inputs[batch], data.labels[batch]
        )
        updates, _ = self.optimizer.update(
            grads, member.opt_state, member.params, **_watched(member.metrics)
        )
        snapshot = Snapshot(
            params=member.params,
            initial=member.initial,
            grads=grads,
            updates=updates,
            graphdef=self.graphdef,
            task=self.task,
            inputs=data.inputs,
            labels=data.labels,
            split=member.split,
            outputs=outputs,
        )
        return {
            name: value
            for measure, fn in self.measures.items()
            for name, value in _by_name(measure, fn(snapshot)).items()
        }

    def judge(
        self, params: Any, inputs: jax.Array, labels: jax.Array
    ) -> tuple[jax.Array, jax.Array]:
        """Mean loss and accuracy of what the model makes of inputs."""
        return self.judged(self.answers(params, inputs), labels)

    def answers(self, params: Any, inputs: jax.Array) -> jax.Array:
        # Made anew for each block: Flax lets a model change only in the trace that it
        # was made in.
        return nnx.merge(self.graphdef, params)(inputs)

    def judged(
        self, outputs: jax.Array, labels: jax.Array
    ) -> tuple[jax.Array, jax.Array]:
        """Mean loss and accuracy of outputs."""
        losses, right = LOSSES[self.task.loss](outputs, labels)
        return jnp.mean(losses), jnp.mean(right, dtype=jnp.float32)

    @functools.cached_property
    def graphdef(self) -> nnx.GraphDef[nnx.Module]:
        return nnx.split(nnx.eval_shape(lambda: self.make_model(nnx.Rngs(0))))[0]


_PARTS = ("train_", "validation_", "test_")


def check_names(measures: Iterable[str]) -> None:
    """Raises ValueError for a measure whose name is that of a loss or accuracy."""
    for name in measures:
        if name.startswith(_PARTS):
            raise ValueError(
                f"a measure's name must not begin with {', '.join(_PARTS)}, got {name}"
            )


def _is_asked_for(share: jax.Array | float) -> bool:
    """Of wrong labels; a share that is traced may be any."""
    return isinstance(share, jax.Array) or share > 0


def _watched(metrics: dict[str, jax.Array]) -> dict[str, jax.Array]:
    """What a recipe may watch: loss and accuracy of all but the test part."""
    return {k: v for k, v in metrics.items() if k.startswith(_PARTS[:2])}


def _by_name(measure: str, found: Any) -> dict[str, jax.Array]:
    """Numbers of one measure, under its name or ``measure/name``."""
    values = {measure: found}
    if isinstance(found, Mapping):
        values = {f"{measure}/{name}": value for name, value in found.items()}
    for name, value in values.items():
        if jnp.shape(value):
            raise ValueError(
                f"the measure {name} must be a number, got an array of shape "
                f"{jnp.shape(value)}"
            )
    return {name: jnp.asarray(value, jnp.float32) for name, value in values.items()}


def _zeros(shapes: Any) -> Any:
    return jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), shapes)
