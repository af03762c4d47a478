"""Egalitarian gradient descent: every matrix of the gradient is whitened."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from egd_optax.arguments import checked_whitening
from egd_optax.leaves.checks import check_dimension_numbers
from egd_optax.leaves.layouts import WeightDimensionNumbers
from egd_optax.leaves.mapping import map_matrices_and_count
from egd_optax.leaves.sharding import spread_over_devices
from egd_optax.polar.eigh import polar_and_failures, polar_by_eigh
from egd_optax.polar.platform import factor_and_failures, polar_factor


class ScaleByEGDState(NamedTuple):
    """State of :func:`scale_by_egd`."""

    # How many matrices so far the eigendecomposition failed for, and another way was
    # taken; zero for a polar_fn of the user's.
    fallbacks: jax.Array  # shape=(), dtype=int32


def scale_by_egd(
    polar_fn: Callable[[jax.Array], jax.Array] | None = None,
    *,
    weight_dimension_numbers: WeightDimensionNumbers = None,
) -> optax.GradientTransformationExtraArgs:
    r"""Whitens the gradient of every matrix, so that all directions move equally fast.

    .. math:: G = U S V^\top \;\mapsto\; (G G^\top)^{-1/2} G = U V^\top

    with the pseudo-inverse where G is rank-deficient. Whether rows or columns are
    inputs does not matter. Of a complex G it is U Vᴴ; with G the conjugate of what
    ``jax.grad`` gives, as everywhere in optax, a step against it descends. Matrices of
    the same shape and dtype are stacked over the whole tree and whitened in one call;
    other leaves pass through.

    Gradients that lie on a mesh (``jax.sharding.NamedSharding``, whatever the layout)
    are whitened by all of its devices: each takes whole matrices of a stack, alone, and
    the results come back in the sharding of the gradients. One reshard there and one
    back for each shape, no communication in between. Nothing has to be said for that.

    Order is meaning: ``add_decayed_weights`` before this transformation is whitened
    together with the gradient (as in the paper), after it it is a decoupled decay.
    The result has spectral norm one whatever the gradient's size, so a schedule of
    the learning rate alone says how far a step goes. That is so for the rounding errors
    of a vanishing gradient, too, unless :func:`egd_optax.apply_unless_vanished` is put
    around.

    Args:
      polar_fn: polar factor of arrays ``(..., m, n)``; None takes
        :func:`egd_optax.polar_factor`: what is best on the platform.
      weight_dimension_numbers: a tree (or a prefix of one) of
        ``optax.contrib.MuonDimensionNumbers``, or a function from the tree of updates
        to one, that says which axes of a leaf are input (reduction) and output; axes
        it does not name are batch axes, a :class:`egd_optax.FusedAxis` holds several
        matrices, and None skips the leaf. None for all takes each leaf with two axes as
        one matrix, in Flax's (fan_in, fan_out) layout, and warns of those with more.

    Returns:
      A gradient transformation. Updates keep shape and dtype. Its state counts the
      eigendecompositions that did not converge and were replaced by
      :func:`egd_optax.polar_by_newton_schulz` (``optax.tree.get(state, "fallbacks")``);
      on a mesh that is one number that all devices add up, where it is used.

    Raises:
      ArgumentError: ``polar_fn`` is no function that keeps shapes; dimension numbers
        are none or, at ``update``, do not fit a leaf; a matrix of integers.

    Example:
      >>> import jax.numpy as jnp, optax
      >>> from egd_optax import scale_by_egd
      >>> tx = optax.chain(scale_by_egd(), optax.scale_by_learning_rate(0.1))
      >>> params = {"kernel": jnp.zeros((2, 2)), "bias": jnp.zeros(2)}
      >>> grads = {"kernel": jnp.diag(jnp.array([100.0, 0.01])), "bias": jnp.ones(2)}
      >>> updates, state = tx.update(grads, tx.init(params), params)
      >>> print(-jnp.diagonal(updates["kernel"]), -updates["bias"])
      [0.1 0.1] [0.1 0.1]

    Source: Saheb Pasand and Dohmatob, *Egalitarian Gradient Descent: A Simple Approach
    to Accelerated Grokking*, arXiv 2510.04930.
    """
    check_dimension_numbers(weight_dimension_numbers)
    given = None if polar_fn is None else checked_whitening(polar_fn)

    def with_failures(stack: jax.Array) -> tuple[jax.Array, jax.Array]:
        if given is None or polar_fn is polar_factor:
            return factor_and_failures(stack)
        if polar_fn is polar_by_eigh:
            return polar_and_failures(stack)
        return given(stack), jnp.zeros(len(stack), bool)

    whiten = spread_over_devices(with_failures)

    def init_fn(params: optax.Params) -> ScaleByEGDState:
        del params
        return ScaleByEGDState(jnp.zeros([], jnp.int32))

    def update_fn(
        updates: optax.Updates,
        state: ScaleByEGDState,
        params: optax.Params | None = None,
        **extra_args: Any,
    ) -> tuple[optax.Updates, ScaleByEGDState]:
        del params, extra_args
        updates, failures = map_matrices_and_count(
            whiten, updates, weight_dimension_numbers
        )
        return updates, ScaleByEGDState(state.fallbacks + failures)

    return optax.GradientTransformationExtraArgs(init_fn, update_fn)
