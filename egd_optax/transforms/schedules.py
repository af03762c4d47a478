"""Learning rates over time."""

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
        return jnp.asarray(init_value / (1 + step / halving_steps))

    return schedule
