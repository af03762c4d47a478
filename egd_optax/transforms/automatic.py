"""The rates and decays of :func:`egd_optax.egd` where none are given."""

import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from egd_optax.leaves.layouts import (
    MatrixLayout,
    WeightDimensionNumbers,
    matrix_layouts,
)
from egd_optax.leaves.mapping import map_leaves
from egd_optax.transforms.oscillation import mean_cosine
from egd_optax.transforms.shape_scaling import shape_factor

# Chosen by hand on development problems; which results had been seen by then is told in
# docs/tuning.md.
RADIUS = 5.0
_STEPS_PER_LAYER = 12
_STEPS_PER_STEP = 1 / 10
_STEPS_PER_REVERSAL = 7
_NEWEST = 0.1
_ONE_WAY = 0.05
_USUAL_REVERSAL = 0.2
_WARM_UP = 100
_VECTOR_STEP = 0.6
_VECTOR_PULL = 0.3
_ONSET_STEP = 1000


def radius(layout: MatrixLayout) -> jax.typing.ArrayLike:
    """R, the largest singular value that a matrix comes to."""
    return RADIUS * shape_factor(layout, None, width_scaling=True)


class AutomaticRatesState(NamedTuple):
    """First half of the state of :func:`with_automatic_rates`; shapes are ()."""

    cosine: jax.Array  # c; dtype=float32
    # Steps so far; dtype=int32.
    count: jax.Array  # type: ignore[assignment]
    age: jax.Array  # A; dtype=float32
    share: jax.Array  # s of the last step; dtype=float32


# Side by side, as optax.tree.set looks no further into a state where it has found one.
_State = tuple[AutomaticRatesState, optax.OptState]


def with_automatic_rates(
    directions: optax.GradientTransformation,
    adam_learning_rate: optax.ScalarOrSchedule | None,
    weight_dimension_numbers: WeightDimensionNumbers = None,
) -> optax.GradientTransformationExtraArgs:
    r"""Matrices move by s R, vectors by 0.6 s or Adam's rate, against the direction.

    .. math::
      s_t &= \frac{1}{12 \sqrt{L} + A_t} \\
      A_t &= A_{t-1} + \tfrac{1}{10} \max(0, \min(1, 1 - 20 c_t))
        + 7 \min(1, t / 100) \max(0, -c_t - 0.2) \\
      c_t &= 0.9 \, c_{t-1} + 0.1 \cos(G_t, M_{t-1})

    of L matrices. What many layers do to a function adds up as independent changes do,
    in squares, so each may do less. The share falls as noise has to be averaged away:
    not where steps lead one way, as the mean cosine c of gradients with the momentum
    that ``directions`` has in its state is above zero there, and sooner where they go
    back and forth and it is well below. Steps of the beginning are large and go back
    and forth anywhere.
    """
    directions = optax.with_extra_args_support(directions)

    def init_fn(params: optax.Params) -> _State:
        # Each has a buffer of its own, so that the state may be donated.
        count, age = jnp.zeros([], jnp.int32), jnp.zeros([], jnp.float32)
        cosine, share = jnp.zeros([], jnp.float32), _share(params, age)
        state = AutomaticRatesState(cosine, count, age, share)
        return state, directions.init(params)

    def _share(tree: optax.Params, age: jax.Array) -> jax.Array:
        layouts = matrix_layouts(tree, weight_dimension_numbers)
        matrices = sum(layout.shape[0] for layout in layouts if layout is not None)
        layers = math.sqrt(max(1, matrices))
        return jnp.asarray(1 / (_STEPS_PER_LAYER * layers + age), jnp.float32)

    def update_fn(
        updates: optax.Updates,
        states: _State,
        params: optax.Params | None = None,
        **extra_args: Any,
    ) -> tuple[optax.Updates, _State]:
        state, inner = states
        # Before all else, as it refuses gradients that do not fit.
        moves, after = directions.update(updates, inner, params, **extra_args)
        now = mean_cosine(updates, _momentum(inner), weight_dimension_numbers)
        cosine = (1 - _NEWEST) * state.cosine + _NEWEST * now
        undecided = jnp.clip(1 - cosine / _ONE_WAY, 0, 1)
        excess = jnp.maximum(0, -cosine - _USUAL_REVERSAL)
        trust = jnp.minimum(1, state.count / _WARM_UP)
        age = state.age + _STEPS_PER_STEP * undecided
        age += _STEPS_PER_REVERSAL * trust * excess
        share = _share(updates, age)
        if adam_learning_rate is None:
            vector_rate = _VECTOR_STEP * share
        elif callable(adam_learning_rate):
            vector_rate = adam_learning_rate(state.count)
        else:
            vector_rate = adam_learning_rate

        def moved(layout: MatrixLayout | None, leaf: jax.Array) -> jax.Array:
            rate = vector_rate if layout is None else share * radius(layout)
            return leaf * jnp.asarray(-rate, leaf.dtype)

        updates = map_leaves(moved, weight_dimension_numbers, moves)
        count = optax.safe_increment(state.count)
        return updates, (AutomaticRatesState(cosine, count, age, share), after)

    return optax.GradientTransformationExtraArgs(init_fn, update_fn)


def _momentum(state: optax.OptState) -> optax.Updates:
    """That of ``optax.trace``; parameters may have the name, too."""

    def is_field(path: Any, _: Any) -> bool:
        return getattr(path[-1], "tuple_name", None) == optax.TraceState.__name__

    return optax.tree.get(state, "trace", filtering=is_field)


def decay_into_balls(
    consistent_rms: jax.typing.ArrayLike | None,
    width_scaling: bool,
    weight_dimension_numbers: WeightDimensionNumbers = None,
) -> optax.GradientTransformation:
    """Decay that holds the singular values of a matrix within R, at any rate.

    Directions whose largest singular value is f lead to weights of at most f / λ.
    """

    def decayed(
        layout: MatrixLayout | None, leaf: jax.Array, weight: jax.Array
    ) -> jax.Array:
        if layout is None:
            return leaf
        factor = shape_factor(layout, consistent_rms, width_scaling)
        return leaf + weight * jnp.asarray(factor / radius(layout), leaf.dtype)

    def update_fn(
        updates: optax.Updates,
        state: optax.EmptyState,
        params: optax.Params | None = None,
    ) -> tuple[optax.Updates, optax.EmptyState]:
        return map_leaves(decayed, weight_dimension_numbers, updates, params), state

    return optax.GradientTransformation(optax.init_empty_state, update_fn)


class PullState(NamedTuple):
    """State of :func:`pull_to_start`."""

    count: jax.Array  # type: ignore[assignment]  # shape=(), dtype=int32
    start: optax.Params


def pull_to_start() -> optax.GradientTransformation:
    """From step 1000 on draws vectors to where they began: biases to 0, scales to 1.

    By 0.3 s of the way a step. Biases that are drawn back at once never grow to what an
    odd target needs (a two-layer ReLU net without them is a linear function plus an
    even one), drawn too hard they lose it again, and those that are never drawn back
    drown an even one in noise.
    """

    def init_fn(params: optax.Params) -> PullState:
        # Copies, as the parameters' own buffers may be donated.
        start = jax.tree.map(jnp.array, params)
        return PullState(jnp.zeros([], jnp.int32), start)

    def update_fn(
        updates: optax.Updates, state: PullState, params: optax.Params | None = None
    ) -> tuple[optax.Updates, PullState]:
        strength = jnp.where(state.count < _ONSET_STEP, 0, _VECTOR_PULL / _VECTOR_STEP)
        pulled = jax.tree.map(
            lambda u, w, start: u + strength.astype(u.dtype) * (w - start),
            *(updates, params, state.start),
        )
        return pulled, PullState(optax.safe_increment(state.count), state.start)

    return optax.GradientTransformation(init_fn, update_fn)
