"""What normalizes its input would turn the last rounding errors into full steps."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from egd_optax.arguments import ArgumentError, check_number, check_transformation
from egd_optax.leaves.checks import check_floating
from egd_optax.meshes import brought_along, same_everywhere
from egd_optax.polar.linear_algebra import (
    at_least_float32,
    known_dtype,
    largest_magnitude,
)

# In steps: a training leaf forgets a scale that is so old.
_MEMORY = 8
# A leaf whose gradient has vanished lies still for two first rests, then a trial; after
# a trial that failed, for a pause.
_FIRST_REST = 64
_PAUSE = 960
# A trial begins with this many halvings of a step: below the rounding of any weight, in
# either precision.
_TRIAL = 64
# The clock during the first rests, below that of any pause.
_FALL = -2048


class ApplyUnlessVanishedState(NamedTuple):
    """State of :func:`apply_unless_vanished`; vectors have an entry for each leaf.

    They are no trees of scalars: Flax would lay those out over the devices as its
    metadata has it for the parameters.
    """

    # L: the largest absolute entry that the gradient has had of late, in at least
    # float32.
    largest: jax.Array  # shape=(leaves,), floating
    inner: optax.OptState
    # R: the size of the gradient that is left, for comparison in a trial.
    remainder: jax.Array  # shape=(leaves,), floating
    # From 0 up, the leaf trains: steps since L was set. Below, it rests; in a trial,
    # steps until it trains again.
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
    than a step is long, steps that double make the gradient grow: at 4 R, with R the
    largest s of the first 64 steps of rest, the trial ends. The next is 960 steps
    later, with twice that R while it is below threshold · L / 8. A gradient that is no
    rounding error is still there at the end, and the leaf trains again with L = R. A
    leaf at a minimum stays there, but for displacements that its gradient does not tell
    from none. At once it trains again when s exceeds 16 threshold · L (√threshold · L
    if that is less).

    L is the largest s since it was set, and set anew to s every 8 steps, so that a
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
        in [0, 1); at ``update``, the gradients are more or fewer than the parameters
        that ``init`` was given; a leaf is not floating.

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
        leaves = jax.tree.leaves(params)
        dtype = np.result_type(np.float32, *map(_dtype_of_sizes, leaves))
        return ApplyUnlessVanishedState(
            largest=jnp.zeros(len(leaves), dtype),
            inner=inner.init(params),
            remainder=jnp.zeros(len(leaves), dtype),
            clock=jnp.zeros(len(leaves), jnp.int32),
            resting=jnp.zeros([], jnp.int32),
        )

    def update_fn(
        updates: optax.Updates,
        state: ApplyUnlessVanishedState,
        params: optax.Params | None = None,
        **extra_args: Any,
    ) -> tuple[optax.Updates, ApplyUnlessVanishedState]:
        check_floating("gradient", updates)
        leaves, treedef = jax.tree.flatten(updates)
        if len(leaves) != len(state.largest):
            raise ArgumentError(
                "the gradients do not fit the parameters given to init: "
                f"{len(leaves)} leaves and {len(state.largest)}"
            )

        vector = state.largest.dtype
        share = threshold
        if threshold is None:
            share = np.array([8 * jnp.finfo(_dtype_of_sizes(g)).eps for g in leaves])
        known = (
            jnp.asarray(share, vector),
            state.largest,
            state.remainder,
            state.clock,
        )

        def after(sizes: list[jax.Array]) -> tuple[Any, ...]:
            return _watch(sizes, *map(brought_along, known))

        sizes = [largest_magnitude(g).reshape(()).astype(vector) for g in leaves]
        largest, remainder, clock, resting, factors = same_everywhere(after, sizes)
        new, inner_state = inner.update(updates, state.inner, params, **extra_args)

        def apply(u: jax.Array, factor: jax.Array) -> jax.Array:
            # Not the product alone: the update may be NaN where the gradient is not,
            # and a product with 1 is rounded otherwise, fused with the sum to come.
            tried = jnp.where(factor < 1, u * factor.astype(known_dtype(u.dtype)), u)
            return jnp.where(factor == 0, jnp.zeros_like(u), tried)

        new = jax.tree.map(apply, new, jax.tree.unflatten(treedef, factors))
        return new, ApplyUnlessVanishedState(
            largest, inner_state, remainder, clock, resting
        )

    return optax.GradientTransformationExtraArgs(init_fn, update_fn)


def _dtype_of_sizes(x: jax.Array) -> jax.typing.DTypeLike:
    return at_least_float32(x.real.dtype)


def check_share(name: str, threshold: jax.typing.ArrayLike | None) -> None:
    """Refuses what is no threshold of :func:`apply_unless_vanished`."""
    if threshold is not None:
        check_number(name, threshold, at_least=0, below=1)


# Outside of a program one call, not fifty.
@jax.jit
def _watch(
    sizes: list[jax.Array],
    share: jax.Array,
    largest: jax.Array,
    remainder: jax.Array,
    clock: jax.Array,
) -> tuple[Any, ...]:
    """The state after gradients of these sizes, and the factors of the updates."""
    size = jnp.stack(sizes) if sizes else jnp.zeros_like(largest)
    where = jnp.where
    raised = _raised(largest, size)
    vanished = share * raised
    rested = clock < 0
    # Far above what a trial leaves behind, times what one batch differs from another.
    bound = where(rested, jnp.minimum(16 * share, jnp.sqrt(share)), share)
    # NaN is not within the bound.
    rests = size <= bound * raised
    tick = clock + 1

    failed = (clock >= -_TRIAL) & (size > 4 * remainder)
    later = where(tick == _FALL + 2 * _FIRST_REST, -_TRIAL, tick)
    later = where(failed, -_TRIAL - _PAUSE, later)
    left = where(tick < _FALL + _FIRST_REST, jnp.maximum(remainder, size), remainder)
    left = jnp.minimum(left, vanished)
    # Not the size that the trial left: each would lead further than the last.
    more = jnp.maximum(remainder, jnp.minimum(2 * remainder, vanished / 8))
    left = where(failed, more, left)
    woke = rested & (later == 0)

    forgets = ~rested & (tick >= _MEMORY) & jnp.isfinite(size)
    new = (
        where(rests, where(woke, left, largest), where(forgets, size, raised)),
        where(rests, where(rested, left, size), remainder),
        where(
            rests,
            where(rested, later, _FALL),
            where(rested | forgets, 0, tick),
        ),
    )
    is_zero = size == 0
    scale, left, now = (
        where(is_zero, old, changed)
        for old, changed in zip((largest, remainder, clock), new, strict=True)
    )
    still = is_zero | (now < -_TRIAL)
    trial = jnp.exp2(now.astype(size.dtype))
    factor = where(still, 0, where(now < 0, trial, 1))
    resting = jnp.sum(factor < 1, dtype=jnp.int32)
    # XLA would compute all of this anew for every leaf, and compile it for minutes,
    # did not a branch divide them.
    factors = jax.lax.cond(
        resting == 0,
        lambda factor: [jnp.ones_like(f) for f in factor],
        lambda factor: list(factor),
        factor,
    )
    return scale, left, now, resting, factors


def _raised(largest: jax.Array, size: jax.Array) -> jax.Array:
    first = jnp.where(jnp.isfinite(size), size, 0)
    limit = jnp.where(largest == 0, first, 2 * largest)
    # Not a maximum, which would take NaN.
    return jnp.where(size > largest, jnp.minimum(size, limit), largest)
