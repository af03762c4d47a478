"""What normalizes its input would turn the last rounding errors into full steps."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
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
    """State of :func:`apply_unless_vanished`; trees have a scalar for each leaf."""

    # L: the largest absolute entry that the gradient has had of late, in at least
    # float32.
    largest: optax.Updates
    inner: optax.OptState
    # R: the largest entry that the gradient had in the first half of a rest.
    remainder: optax.Updates
    # int32. From 0 up, the leaf trains: steps since L was set. Below 0, it rests: steps
    # until it trains again.
    clock: optax.Updates
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

        def zeros() -> optax.Updates:
            return jax.tree.map(lambda p: jnp.zeros([], _real_dtype(p)), params)

        return ApplyUnlessVanishedState(
            largest=zeros(),
            inner=inner.init(params),
            remainder=zeros(),
            clock=jax.tree.map(lambda _: jnp.zeros([], jnp.int32), params),
            resting=jnp.zeros([], jnp.int32),
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

        def watch(g: jax.Array, *watched: jax.Array) -> _Watched:
            dtype = watched[0].dtype
            size = largest_magnitude(g).reshape(()).astype(dtype)
            share = 8 * jnp.finfo(dtype).eps if threshold is None else threshold
            return _watch(size, jnp.asarray(share, dtype), *watched)

        watched = jax.tree.map(
            watch, updates, state.largest, state.remainder, state.clock
        )
        outer, fields = (
            jax.tree.structure(updates),
            jax.tree.structure(_Watched(*"1234")),
        )
        largest, remainder, clock, factor = jax.tree.transpose(outer, fields, watched)
        new, inner_state = inner.update(updates, state.inner, params, **extra_args)
        new = jax.tree.map(
            lambda u, a: jnp.where(a == 0, jnp.zeros_like(u), u * a.astype(u.dtype)),
            new,
            factor,
        )
        resting = sum(
            ((a < 1).astype(jnp.int32) for a in jax.tree.leaves(factor)),
            start=jnp.zeros([], jnp.int32),
        )
        return new, ApplyUnlessVanishedState(
            largest, inner_state, remainder, clock, resting
        )

    return optax.GradientTransformationExtraArgs(init_fn, update_fn)


def check_share(name: str, threshold: jax.typing.ArrayLike | None) -> None:
    """Refuses what is no threshold of :func:`apply_unless_vanished`."""
    if threshold is not None:
        check_number(name, threshold, at_least=0, below=1)


class _Watched(NamedTuple):
    """What is known of a leaf after a step, and the factor of its update."""

    largest: jax.Array
    remainder: jax.Array
    clock: jax.Array
    factor: jax.Array


# Outside of a program one call a leaf, not thirty.
@jax.jit
def _watch(
    size: jax.Array,
    share: jax.Array,
    largest: jax.Array,
    remainder: jax.Array,
    clock: jax.Array,
) -> _Watched:
    raised = _raised(largest, size)

    def choose(condition: jax.Array, *pair: tuple[jax.Array, ...]) -> Any:
        return jax.tree.map(lambda a, b: jnp.where(condition, a, b), *pair)

    age = jnp.where(raised > largest, 0, clock + 1)
    forgets = (age >= _MEMORY) & jnp.isfinite(size)
    training = choose(forgets, (size, remainder, 0 * age), (raised, remainder, age))
    fallen = (raised, size, jnp.full_like(clock, -2 * _REST - _TRIAL))

    # What a trial moves may raise the gradient above the threshold.
    bound = jnp.minimum(16 * share, jnp.sqrt(share))
    back = (raised, remainder, jnp.zeros_like(clock))
    grows = (clock >= -_TRIAL) & (size > 4 * remainder)
    later = jnp.where(grows, -_REST - _TRIAL, clock + 1)
    # Later rests do not count, or each trial would lead further than the last.
    seen = jnp.where(later < -_REST - _TRIAL, jnp.maximum(remainder, size), remainder)
    scale = jnp.where(later == 0, _raised(seen, size), largest)
    resting = (scale, seen, later)

    new = choose(
        clock < 0,
        # Not above the bound, which NaN is not either.
        choose(size <= bound * raised, resting, back),
        choose(size <= share * raised, fallen, training),
    )
    new = choose(size == 0, (largest, remainder, clock), new)
    clock = new[2]
    trial = jnp.ldexp(jnp.ones_like(size), clock)
    factor = jnp.where(clock < 0, jnp.where(clock < -_TRIAL, 0, trial), 1)
    return _Watched(*new, jnp.where(size == 0, 0, factor))


def _real_dtype(x: jax.Array) -> jax.typing.DTypeLike:
    return at_least_float32(x.real.dtype)


def _raised(largest: jax.Array, size: jax.Array) -> jax.Array:
    first = jnp.where(jnp.isfinite(size), size, 0)
    limit = jnp.where(largest == 0, first, 2 * largest)
    # Not a maximum, which would take NaN.
    return jnp.where(size > largest, jnp.minimum(size, limit), largest)
