"""Numbers over time: a learning rate that falls, a strength that sets in late."""

import jax
import jax.numpy as jnp
import optax

from egd_optax.arguments import check_number


def inverse_time_decay(
    init_value: jax.typing.ArrayLike, halving_steps: jax.typing.ArrayLike
) -> optax.Schedule:
    r"""A schedule η_t = η₀ / (1 + t / τ): half after τ steps, a third after 2 τ.

    A whitened gradient is as long at the end of training as at the start, so that under
    a constant learning rate the weights never come to rest. Decay in 1/t (Robbins and
    Monro, 1951) passes through every scale of step: large ones first, where few steps
    are to suffice, small ones as long as there is something left to average out.

    Args:
      init_value: η₀, the value at step 0.
      halving_steps: τ, in steps, above 0.

    Returns:
      A function of the step, for any argument that takes an optax schedule.

    Raises:
      ArgumentError: ``init_value`` is no finite number, or ``halving_steps`` no number
        above 0.

    Example:
      >>> from egd_optax import inverse_time_decay
      >>> schedule = inverse_time_decay(1.0, 100)
      >>> print(schedule(0), schedule(100), schedule(300))
      1.0 0.5 0.25
    """
    check_number("init_value", init_value)
    # Infinity is the constant rate at the end of a sweep.
    check_number("halving_steps", halving_steps, above=0, finite=False)

    def schedule(step: jax.typing.ArrayLike) -> jax.Array:
        return jnp.asarray(init_value / (1 + step / _wide(halving_steps)))

    return schedule


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
        count, ramp_length = jnp.asarray(count), _wide(ramp_steps)
        onset = _wide(onset_step)
        begun = count >= onset
        # An unsigned count has nothing below zero.
        past = jnp.where(begun, count - onset, 0)
        # A ramp of no steps must not divide by zero, and then its first step is full.
        ramp = jnp.where(
            past >= ramp_length, 1.0, past / jnp.where(ramp_length == 0, 1, ramp_length)
        )
        return jnp.where(begun, ramp, 0.0) * value

    return schedule


def _wide(steps: jax.typing.ArrayLike) -> jax.typing.ArrayLike:
    # In 16 bits a count of steps ends at 65504, or goes by twos from 256 on.
    dtype = jnp.result_type(steps)
    if jnp.issubdtype(dtype, jnp.floating) and jnp.finfo(dtype).bits < 32:
        return jnp.asarray(steps, jnp.float32)
    return steps
