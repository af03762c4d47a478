"""What normalizes its input would turn the last rounding errors into full steps."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from egd_optax.arguments import check_number, check_transformation
from egd_optax.leaves.checks import check_floating, leaves_below
from egd_optax.polar.linear_algebra import at_least_float32, largest_magnitude

# In steps. A training leaf forgets a scale that is so old:
_MEMORY = 8
# A leaf lies still for two rests when its gradient has vanished, for one after a trial.
_REST = 64
# A trial begins with this many halvings of a step: from below the rounding of any
# weight up, in either precision.
_TRIAL = 64


class ApplyUnlessVanishedState(NamedTuple):
    """State of :func:`apply_unless_vanished`."""

    # L: the largest absolute entry that each leaf's gradient has had of late, a scalar
    # a leaf, in at least float32.
    largest: optax.Updates
    inner: optax.OptState
    # R: the largest entry of a leaf's gradient in the first half of its rest.
    remainder: jax.Array  # shape=(leaves,), floating
    # From 0 up, a leaf trains: steps since L was set. Below, it rests: steps until it
    # trains again.
    clock: jax.Array  # shape=(leaves,), dtype=int32
    # How many leaves rested in the last step.
    resting: jax.Array  # shape=(), dtype=int32


def apply_unless_vanished(
    inner: optax.GradientTransformation,
    threshold: jax.typing.ArrayLike | None = None,
) -> optax.GradientTransformationExtraArgs:
    r"""Lets a leaf rest while its gradient is nothing but rounding errors.

    Whitening, column normalization and sign descent give a full-size step for any
    gradient but zero. At the end of a training without decay what is left of a gradient
    are rounding errors, and momentum keeps a direction that was whitened long ago. With
    G the gradient that comes in, s its largest absolute entry, and L the largest s of
    late, leaf by leaf,

    .. math:: U = \alpha \, \text{inner}(G), \qquad \alpha = \begin{cases}
        1 & \text{while the leaf trains} \\
        0 & \text{from } s \le \text{threshold} \cdot L \text{ on, for 128 steps} \\
        2^{k - 64} & \text{in step } k = 0, \dots, 63 \text{ of the trial that follows}
        \end{cases}

    The trial tells rounding errors from a small gradient. Where a minimum is nearer
    than a step is long, steps that double make the gradient grow: at four times R, the
    largest s of the first 64 steps of rest, the trial ends, and the next is 64 steps
    later. An honest gradient is still there at the end, and the leaf trains again with
    L = R. So a leaf at a minimum stays there but for displacements of the size of the
    rounding errors, and none is stopped for good. It trains again at once when s
    exceeds 16 threshold · L (√threshold · L if that is less).

    L is the largest s since it was set, and set anew to s after 8 steps, so that a
    gradient may fall by any factor if only the fall takes its time. L at most doubles
    from one step to the next, so that no single outlier sets it. The state of ``inner``
    goes on in any case. A gradient of exactly zero rests, and changes none of this.

    Args:
      inner: the transformation; without decay of the weights, which shall go on.
      threshold: what counts as vanished, relative to L. None takes 8 eps of the
        gradient's dtype, at least float32 (9.5e-7): the errors of a gradient near a
        minimum have the size of those of its terms, which cancel there. 0 leaves
        exactly zero gradients alone to rest.

    Returns:
      A gradient transformation that passes extra arguments on. NaN counts as a
      gradient. Its state counts the leaves that rested in the last step, trials and
      zero gradients among them (``optax.tree.get(state, "resting")``). On a mesh each
      leaf takes a reduction to one number.

    Raises:
      ArgumentError: ``inner`` is no gradient transformation, or ``threshold`` no number
        in [0, 1); at ``update``, the gradients do not fit the parameters that ``init``
        was given; a leaf is not floating.

    Example:
      >>> import jax.numpy as jnp
      >>> from egd_optax import apply_unless_vanished, scale_by_egd
      >>> tx = apply_unless_vanished(scale_by_egd())
      >>> state = tx.init(jnp.zeros((2, 2)))
      >>> for size in (1.0, 1e-3, 1e-8):
      ...     updates, state = tx.update(size * jnp.eye(2), state)
      ...     print(jnp.diagonal(updates), state.resting)
      [1. 1.] 0
      [1. 1.] 0
      [0. 0.] 1

    Source: this package. The code of Saheb Pasand and Dohmatob, *Egalitarian Gradient
    Descent*, arXiv 2510.04930, divides singular values below 1e-6 by 1e-6 instead.
    """
    check_transformation("inner", inner)
    check_share("threshold", threshold)
    inner = optax.with_extra_args_support(inner)

    def init_fn(params: optax.Params) -> ApplyUnlessVanishedState:
        check_floating("parameter", params)
        largest = jax.tree.map(lambda p: jnp.zeros([], _real_dtype(p)), params)
        scales = jax.tree.leaves(largest)
        remainder = _as_vector(scales, scales)
        clock = jnp.zeros(remainder.shape, jnp.int32)
        resting = jnp.zeros([], jnp.int32)
        return ApplyUnlessVanishedState(
            largest, inner.init(params), remainder, clock, resting
        )

    def update_fn(
        updates: optax.Updates,
        state: ApplyUnlessVanishedState,
        params: optax.Params | None = None,
        **extra_args: Any,
    ) -> tuple[optax.Updates, ApplyUnlessVanishedState]:
        check_floating("gradient", updates)
        problem = "the gradients do not fit the parameters given to init"
        leaves_below(updates, state.largest, problem)
        scales, treedef = jax.tree.flatten(state.largest)
        share = threshold
        if threshold is None:
            share = np.array([8 * jnp.finfo(scale.dtype).eps for scale in scales])
        watched, factors = _watch(
            _as_vector(
                [largest_magnitude(g) for g in jax.tree.leaves(updates)], scales
            ),
            jnp.asarray(share, state.remainder.dtype),
            _Watched(_as_vector(scales, scales), state.remainder, state.clock),
        )
        new, inner_state = inner.update(updates, state.inner, params, **extra_args)

        def applied(u: jax.Array, factor: jax.Array) -> jax.Array:
            # Not the product alone: the update may be NaN where the gradient is not.
            return jnp.where(factor == 0, jnp.zeros_like(u), u * factor.astype(u.dtype))

        new = jax.tree.map(applied, new, jax.tree.unflatten(treedef, list(factors)))
        scales = [
            scale.astype(old.dtype)
            for scale, old in zip(watched.largest, scales, strict=True)
        ]
        return new, ApplyUnlessVanishedState(
            jax.tree.unflatten(treedef, scales),
            inner_state,
            watched.remainder,
            watched.clock,
            jnp.sum(factors < 1, dtype=jnp.int32),
        )

    return optax.GradientTransformationExtraArgs(init_fn, update_fn)


def check_share(name: str, threshold: jax.typing.ArrayLike | None) -> None:
    """Refuses what is no threshold of :func:`apply_unless_vanished`."""
    if threshold is not None:
        check_number(name, threshold, at_least=0, below=1)


class _Watched(NamedTuple):
    """What is known of the leaves, one entry each."""

    largest: jax.Array
    remainder: jax.Array
    clock: jax.Array


# One program for the scalars of all leaves: one for each would take longer to compile
# than the rest of a step.
@jax.jit
def _watch(
    size: jax.Array, share: jax.Array, watched: _Watched
) -> tuple[_Watched, jax.Array]:
    """What is known after gradients of these sizes, and the factors of the updates."""
    largest, remainder, clock = watched
    raised = _raised(largest, size)

    def choose(condition: jax.Array, one: _Watched, other: _Watched) -> _Watched:
        return jax.tree.map(lambda a, b: jnp.where(condition, a, b), one, other)

    age = jnp.where(raised > largest, 0, clock + 1)
    forgets = (age >= _MEMORY) & jnp.isfinite(size)
    training = choose(
        forgets,
        _Watched(size, remainder, 0 * age),
        _Watched(raised, remainder, age),
    )
    fallen = _Watched(raised, size, jnp.full_like(clock, -2 * _REST - _TRIAL))

    grows = (clock >= -_TRIAL) & (size > 4 * remainder)
    later = jnp.where(grows, -_REST - _TRIAL, clock + 1)
    # Later rests do not count, or each trial would lead further than the last.
    first = later < -_REST - _TRIAL
    remainder = jnp.where(first, jnp.maximum(remainder, size), remainder)
    scale = jnp.where(later == 0, _raised(remainder, size), largest)
    resting = _Watched(scale, remainder, later)
    back = _Watched(raised, remainder, jnp.zeros_like(clock))
    # What a trial moves may lift the gradient above the threshold.
    bound = jnp.minimum(16 * share, jnp.sqrt(share))

    new = choose(
        clock < 0,
        # NaN is not within the bound.
        choose(size <= bound * raised, resting, back),
        choose(size <= share * raised, fallen, training),
    )
    new = choose(size == 0, watched, new)
    trial = jnp.ldexp(jnp.ones_like(size), new.clock)
    factor = jnp.where(new.clock < -_TRIAL, 0, jnp.where(new.clock < 0, trial, 1))
    return new, jnp.where(size == 0, 0, factor)


def _as_vector(numbers: list[jax.Array], like: list[jax.Array]) -> jax.Array:
    dtype = np.result_type(np.float32, *(scalar.dtype for scalar in like))
    parts = [jnp.zeros(0, dtype), *(n.reshape(1).astype(dtype) for n in numbers)]
    return jnp.concatenate(parts)


def _real_dtype(x: jax.Array) -> jax.typing.DTypeLike:
    return at_least_float32(x.real.dtype)


def _raised(largest: jax.Array, size: jax.Array) -> jax.Array:
    first = jnp.where(jnp.isfinite(size), size, 0)
    limit = jnp.where(largest == 0, first, 2 * largest)
    # Not a maximum, which would take NaN.
    return jnp.where(size > largest, jnp.minimum(size, limit), largest)
