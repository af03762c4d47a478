"""What normalizes its input would turn the last rounding errors into full steps."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from egd_optax.arguments import check_number, check_transformation
from egd_optax.leaves.checks import check_floating, leaves_below
from egd_optax.polar.linear_algebra import at_least_float32, largest_magnitude


class ApplyUnlessVanishedState(NamedTuple):
    """State of :func:`apply_unless_vanished`."""

    # The largest absolute entry that each leaf's gradient has had, a scalar a leaf, in
    # at least float32.
    largest: optax.Updates
    inner: optax.OptState


def apply_unless_vanished(
    inner: optax.GradientTransformation,
    threshold: jax.typing.ArrayLike | None = None,
) -> optax.GradientTransformationExtraArgs:
    r"""Lets a leaf rest while its gradient is nothing but rounding errors.

    Whitening, column normalization and sign descent give a full-size step for any
    gradient but zero. At the end of a training without decay what is left of a gradient
    are rounding errors, and momentum keeps a direction that was whitened long ago. With
    G the gradient that comes in, s its largest absolute entry, and L the largest s so
    far,

    .. math:: U = \begin{cases} 0 & s \le \text{threshold} \cdot L \\
        \text{inner}(G) & \text{otherwise} \end{cases}

    leaf by leaf. Nothing is scaled down in between: a step that is proportional to so
    small a gradient still leads away from a minimum, and from there the next is of full
    size. The state of ``inner`` goes on in any case. L at most doubles from one step to
    the next, so that no single outlier sets it.

    Args:
      inner: the transformation; without decay of the weights, which shall go on.
      threshold: what counts as vanished, relative to L. None takes 8 eps of the
        gradient's dtype, at least float32 (9.5e-7): the errors of a gradient near a
        minimum have the size of those of its terms, which cancel there. 0 leaves
        exactly zero gradients alone to rest.

    Returns:
      A gradient transformation that passes extra arguments on. NaN counts as a
      gradient. On a mesh each leaf takes a reduction to one number.

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
      ...     print(jnp.diagonal(updates))
      [1. 1.]
      [1. 1.]
      [0. 0.]

    Source: this package. The code of Saheb Pasand and Dohmatob, *Egalitarian Gradient
    Descent*, arXiv 2510.04930, divides singular values below 1e-6 by 1e-6 instead.
    """
    check_transformation("inner", inner)
    check_share("threshold", threshold)
    inner = optax.with_extra_args_support(inner)

    def init_fn(params: optax.Params) -> ApplyUnlessVanishedState:
        check_floating("parameter", params)
        zeros = jax.tree.map(lambda p: jnp.zeros([], _real_dtype(p)), params)
        return ApplyUnlessVanishedState(zeros, inner.init(params))

    def update_fn(
        updates: optax.Updates,
        state: ApplyUnlessVanishedState,
        params: optax.Params | None = None,
        **extra_args: Any,
    ) -> tuple[optax.Updates, ApplyUnlessVanishedState]:
        check_floating("gradient", updates)
        problem = "the gradients do not fit the parameters given to init"
        leaves_below(updates, state.largest, problem)
        sizes = jax.tree.map(
            lambda g, old: largest_magnitude(g).reshape(()).astype(old.dtype),
            updates,
            state.largest,
        )
        largest = jax.tree.map(_raised, state.largest, sizes)
        new, inner_state = inner.update(updates, state.inner, params, **extra_args)

        def rest(u: jax.Array, size: jax.Array, largest: jax.Array) -> jax.Array:
            share = 8 * jnp.finfo(size.dtype).eps if threshold is None else threshold
            return jnp.where(size <= share * largest, jnp.zeros_like(u), u)

        new = jax.tree.map(rest, new, sizes, largest)
        return new, ApplyUnlessVanishedState(largest, inner_state)

    return optax.GradientTransformationExtraArgs(init_fn, update_fn)


def check_share(name: str, threshold: jax.typing.ArrayLike | None) -> None:
    """Refuses what is no threshold of :func:`apply_unless_vanished`."""
    if threshold is not None:
        check_number(name, threshold, at_least=0, below=1)


def _real_dtype(x: jax.Array) -> jax.typing.DTypeLike:
    return at_least_float32(x.real.dtype)


def _raised(largest: jax.Array, size: jax.Array) -> jax.Array:
    first = jnp.where(jnp.isfinite(size), size, 0)
    limit = jnp.where(largest == 0, first, 2 * largest)
    # Not a maximum, which would take NaN.
    return jnp.where(size > largest, jnp.minimum(size, limit), largest)
