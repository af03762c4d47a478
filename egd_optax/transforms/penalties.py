"""Penalties on the weights, added as gradients, and the schedule that delays them."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from egd_optax.arguments import check_number, checked_schedule, checked_whitening
from egd_optax.leaves.checks import (
    Mask,
    check_dimension_numbers,
    checked_mask,
    checked_params,
)
from egd_optax.leaves.mapping import WeightDimensionNumbers, map_matrices
from egd_optax.polar.eigh import polar_by_eigh
from egd_optax.polar.linear_algebra import (
    adjoint,
    at_least_float32,
    gram_matrix,
    largest_magnitude,
    power_of_two,
)
from egd_optax.polar.stacks import one_at_a_time_on_cpu


class WeightPenaltyState(NamedTuple):
    """State of a weight penalty whose strength is a schedule."""

    count: jax.Array  # type: ignore[assignment]  # shape=(), dtype=int32


def add_frobenius_penalty(
    strength: optax.ScalarOrSchedule, mask: Mask | None = None
) -> optax.GradientTransformationExtraArgs:
    r"""Adds the gradient of a squared Frobenius norm, summed over all weights.

    .. math:: g \leftarrow g + 2 \, \text{strength} \cdot W = g + \nabla_W \,
        \text{strength} \sum \|W\|_F^2

    Every leaf counts, vectors included, unless a mask excludes it. The same as
    ``optax.add_decayed_weights(2 * strength)``, but for the dtype, which stays the
    gradient's own. Put before a whitening the penalty is whitened with the gradient;
    put after it, it is a decoupled decay.

    Args:
      strength: factor of the penalty, a number or a schedule.
      mask: tree of booleans (or a prefix, or a function of the parameters that gives
        one): where the penalty applies.

    Returns:
      A gradient transformation whose ``update`` needs ``params``.

    Raises:
      ArgumentError: ``strength`` is neither a finite number nor a schedule, or ``mask``
        no mask; at ``update``, if ``params`` is missing or does not fit the gradients
        or the mask, or a leaf is not floating.

    Example:
      >>> import jax.numpy as jnp
      >>> from egd_optax import add_frobenius_penalty
      >>> tx = add_frobenius_penalty(0.5)
      >>> params = jnp.array([1.0, -2.0])
      >>> updates, _ = tx.update(jnp.zeros(2), tx.init(params), params)
      >>> print(updates)
      [ 1. -2.]

    Source: *A Simple Method for Accelerating Grokking* (LessWrong), where it is added
    once the training data is memorized: :func:`egd_optax.delayed_frobenius_penalty`.
    """
    return _add_to_gradient(lambda params: params, strength, mask, factor=2)


def add_nuclear_norm_penalty(
    strength: optax.ScalarOrSchedule,
    *,
    polar_fn: Callable[[jax.Array], jax.Array] | None = None,
    weight_dimension_numbers: WeightDimensionNumbers = None,
    mask: Mask | None = None,
) -> optax.GradientTransformationExtraArgs:
    r"""Adds the gradient of the nuclear norm (sum of singular values) of each matrix.

    .. math:: g \leftarrow g + \text{strength} \cdot U V^\top
        \in g + \partial_W \, \text{strength} \, \|W\|_*, \qquad W = U S V^\top

    The subgradient is the polar factor of W, so no singular value decomposition is
    differentiated, nor computed. Directions in which W vanishes get none. Leaves that
    are not matrices pass through.

    Args:
      strength: factor of the penalty, a number or a schedule.
      polar_fn: polar factor of arrays ``(..., m, n)``; None takes
        :func:`egd_optax.polar_by_eigh`.
      weight_dimension_numbers: which axes of each leaf are input and output, as in
        :func:`egd_optax.scale_by_egd`.
      mask: tree of booleans (or a prefix, or a function of the parameters that gives
        one): where the penalty applies.

    Returns:
      A gradient transformation whose ``update`` needs ``params``.

    Raises:
      ArgumentError: as :func:`add_frobenius_penalty`; ``polar_fn`` is no function that
        keeps shapes, or dimension numbers are none or do not fit a leaf.

    Example:
      >>> import jax.numpy as jnp
      >>> from egd_optax import add_nuclear_norm_penalty
      >>> tx = add_nuclear_norm_penalty(0.5)
      >>> params = {"kernel": jnp.array([[0.0, 3.0], [0.0, 0.0]])}
      >>> zeros = {"kernel": jnp.zeros((2, 2))}
      >>> updates, _ = tx.update(zeros, tx.init(params), params)
      >>> print(updates["kernel"])
      [[0.  0.5]
       [0.  0. ]]

    Source: *A Simple Method for Accelerating Grokking* (LessWrong) has the penalty,
    through an SVD; Watson, *Characterization of the subdifferential of some matrix
    norms* (1992), has its subgradient.
    """
    whiten = polar_by_eigh if polar_fn is None else checked_whitening(polar_fn)
    return _add_to_gradient(
        _of_matrices(whiten, weight_dimension_numbers), strength, mask
    )


def add_log_det_penalty(
    strength: optax.ScalarOrSchedule,
    *,
    eps: jax.typing.ArrayLike,
    weight_dimension_numbers: WeightDimensionNumbers = None,
    mask: Mask | None = None,
) -> optax.GradientTransformationExtraArgs:
    r"""Adds the gradient of a log-determinant, a smooth stand-in for the rank.

    .. math:: g \leftarrow g + \nabla_W \, \text{strength} \cdot
        \log\det(W W^\top / \epsilon + I)
        = g + 2 \, \text{strength} \cdot (W W^\top + \epsilon I)^{-1} W

    A singular value σ costs log(1 + σ²/ε) and is pushed down by 2 σ / (σ² + ε): hardest
    at σ = √ε, in proportion to σ below it, ever less above it. So small directions
    vanish and large ones stay. Solved by Cholesky on the smaller side of the matrix, in
    at least float32, with a relative error of about its eps times σ_max² / ε. Leaves
    that are not matrices pass through.

    Args:
      strength: factor of the penalty, a number or a schedule.
      eps: ε > 0, the square of the singular value up to which a direction counts as
        small. Below 16 eps of the dtype computed in times the squared Frobenius norm
        of W (2e-6 of it in float32) it takes that value: the Gram matrix knows nothing
        of smaller ones.
      weight_dimension_numbers: which axes of each leaf are input and output, as in
        :func:`egd_optax.scale_by_egd`.
      mask: tree of booleans (or a prefix, or a function of the parameters that gives
        one): where the penalty applies.

    Returns:
      A gradient transformation whose ``update`` needs ``params``.

    Raises:
      ArgumentError: as :func:`add_frobenius_penalty`; ``eps`` is no finite number above
        0, or dimension numbers are none or do not fit a leaf.

    Example:
      >>> import jax.numpy as jnp
      >>> from egd_optax import add_log_det_penalty
      >>> tx = add_log_det_penalty(0.5, eps=1.0)
      >>> params = {"kernel": jnp.array([[0.0, 3.0], [0.0, 0.0]])}
      >>> zeros = {"kernel": jnp.zeros((2, 2))}
      >>> updates, _ = tx.update(zeros, tx.init(params), params)
      >>> print(updates["kernel"].round(3))
      [[0.  0.3]
       [0.  0. ]]

    Source: Fazel, Hindi and Boyd, *Log-det heuristic for matrix rank minimization*
    (ACC 2003); *A Simple Method for Accelerating Grokking* (LessWrong) tries it.
    """
    check_number("eps", eps, above=0)

    def direction(w: jax.Array) -> jax.Array:
        if w.size == 0:
            return w
        wide = w if w.shape[-2] <= w.shape[-1] else adjoint(w)
        wide = wide.astype(at_least_float32(w.dtype))
        ridges = jnp.broadcast_to(jnp.asarray(eps, wide.real.dtype), len(wide))
        result = _log_det_directions(wide, ridges)
        return result if w.shape[-2] <= w.shape[-1] else adjoint(result)

    return _add_to_gradient(
        _of_matrices(direction, weight_dimension_numbers), strength, mask
    )


def delayed_onset(
    value: jax.typing.ArrayLike,
    onset_step: jax.typing.ArrayLike,
    ramp_steps: jax.typing.ArrayLike = 0,
) -> optax.Schedule:
    r"""A schedule that is 0 before a step and ``value`` after, with a linear ramp.

    .. math:: s(t) = \text{value} \cdot \min(1, (t - \text{onset}) / \text{ramp})
        \quad \text{for } t \ge \text{onset, else } 0

    Args:
      value: what the schedule reaches.
      onset_step: first step at which the schedule rises; without a ramp, the first
        step at which it is ``value``.
      ramp_steps: number of steps from 0 to ``value``.

    Returns:
      A function of the step count, for any argument that takes a schedule.

    Raises:
      ArgumentError: ``value`` is no finite number, or a number of steps is below 0.

    Example:
      >>> from egd_optax import delayed_onset
      >>> schedule = delayed_onset(0.5, onset_step=10, ramp_steps=10)
      >>> print([float(schedule(step)) for step in (9, 10, 15, 20, 99)])
      [0.0, 0.0, 0.25, 0.5, 0.5]
    """
    check_number("value", value)
    # Infinity: never.
    check_number("onset_step", onset_step, at_least=0, finite=False)
    check_number("ramp_steps", ramp_steps, at_least=0)

    def schedule(count: jax.typing.ArrayLike) -> jax.Array:
        past = jnp.asarray(count) - onset_step
        # A ramp of no steps must not divide by zero, and then its first step is full.
        ramp = jnp.where(
            past >= ramp_steps, 1.0, past / jnp.where(ramp_steps == 0, 1, ramp_steps)
        )
        return jnp.where(past >= 0, ramp, 0.0) * value

    return schedule


def _log_det_direction(w: jax.Array, eps: jax.Array) -> jax.Array:
    """2 (W Wᴴ + ε I)⁻¹ W of one wide matrix."""
    # Over √ε, ε neither overflows nor vanishes.
    scale = power_of_two(jnp.maximum(largest_magnitude(w), jnp.sqrt(eps)))
    w = w / scale
    gram = gram_matrix(w)
    least = 16 * jnp.finfo(w.dtype).eps * jnp.trace(gram).real
    ridge = jnp.maximum(eps / scale / scale, least)
    factor = jnp.linalg.cholesky(gram + ridge * jnp.eye(len(gram), dtype=gram.dtype))
    return 2 * jax.scipy.linalg.cho_solve((factor, True), w) / scale


_log_det_directions = one_at_a_time_on_cpu(_log_det_direction)


def _of_matrices(
    direction: Callable[[jax.Array], jax.Array], numbers: WeightDimensionNumbers
) -> Callable[[optax.Params], optax.Updates]:
    """The direction of each matrix of a tree, zeros for other leaves."""
    check_dimension_numbers(numbers)
    return lambda params: map_matrices(
        direction, params, numbers, otherwise=jnp.zeros_like
    )


def _add_to_gradient(
    direction: Callable[[optax.Params], optax.Updates],
    strength: optax.ScalarOrSchedule,
    mask: Mask | None,
    factor: int = 1,
) -> optax.GradientTransformationExtraArgs:
    """Adds ``factor * strength * direction(params)`` to the updates."""
    strength = checked_schedule("strength", strength)

    def init_fn(params: optax.Params) -> optax.OptState:
        del params
        if callable(strength):
            return WeightPenaltyState(count=jnp.zeros([], jnp.int32))
        return optax.EmptyState()

    def update_fn(
        updates: optax.Updates,
        state: optax.OptState,
        params: optax.Params | None = None,
        **extra_args: Any,
    ) -> tuple[optax.Updates, optax.OptState]:
        del extra_args
        params = checked_params(params, "a weight penalty", updates)
        value = strength
        if callable(strength):
            value = strength(state.count)
            state = WeightPenaltyState(optax.safe_increment(state.count))

        def add(g: jax.Array, d: jax.Array) -> jax.Array:
            dtype = at_least_float32(g.dtype)
            # Twice the weights may be more than the dtype holds.
            return (g.astype(dtype) + factor * value * d.astype(dtype)).astype(g.dtype)

        return jax.tree.map(add, updates, direction(params)), state

    tx = optax.GradientTransformationExtraArgs(init_fn, update_fn)
    return tx if mask is None else optax.masked(tx, checked_mask(mask))
