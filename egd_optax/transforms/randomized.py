"""Egalitarian gradient descent for the leading directions, by fresh random sketches."""

import itertools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from egd_optax.arguments import (
    ArgumentError,
    check_integer,
    check_key,
    checked_count,
    shown,
)
from egd_optax.leaves.checks import check_dimension_numbers
from egd_optax.leaves.layouts import WeightDimensionNumbers
from egd_optax.leaves.mapping import map_matrices_and_count
from egd_optax.meshes import brought_along
from egd_optax.polar.randomized import randomized_polar_and_failures


class ScaleByRandomizedEGDState(NamedTuple):
    """State of :func:`scale_by_randomized_egd`."""

    # Not a typed key: NumPy, flax.serialization and comparisons of trees take none.
    key: jax.Array  # key data, dtype=uint32, shape=(2,) for JAX's default generator
    # How often an eigendecomposition failed and another way was taken.
    fallbacks: jax.Array  # shape=(), dtype=int32


def scale_by_randomized_egd(
    rank: int,
    *,
    seed: jax.typing.ArrayLike = 0,
    power_iterations: jax.typing.ArrayLike = 2,
    weight_dimension_numbers: WeightDimensionNumbers = None,
) -> optax.GradientTransformationExtraArgs:
    r"""Whitens the leading directions of every matrix and drops the others.

    .. math:: G = U S V^\top \;\mapsto\; U_r V_r^\top

    (V_rᴴ for complex numbers) by :func:`egd_optax.polar_by_randomized_svd`, with a
    sketch of its own for each matrix and each step. The random key lives in the state,
    so that a run is the same again from the same seed, and goes on the same from a
    checkpoint. Matrices of the same shape and dtype are whitened in one call, other
    leaves pass through, as in :func:`egd_optax.scale_by_egd`.

    Args:
      rank: number r of directions that are kept, a static integer (name it in
        ``static_args`` of ``optax.inject_hyperparams``). Matrices with no more than
        that are whitened entirely.
      seed: an integer or a key, ``jax.random.key(…)``.
      power_iterations: how often a sketch is sharpened.
      weight_dimension_numbers: which axes of each leaf are input and output, as in
        :func:`egd_optax.scale_by_egd`.

    Returns:
      A gradient transformation. Updates keep shape and dtype.

    Raises:
      ArgumentError: ``rank`` is no static integer of at least 1, ``seed`` neither an
        integer nor a key, or ``power_iterations`` no integer of at least 0; dimension
        numbers are none or, at ``update``, do not fit a leaf; a matrix of integers.

    Example:
      >>> import jax.numpy as jnp
      >>> from egd_optax import scale_by_randomized_egd
      >>> tx = scale_by_randomized_egd(rank=2)
      >>> grads = {"kernel": jnp.diag(jnp.array([5.0, 2.0, 0.0])), "bias": jnp.ones(3)}
      >>> updates, state = tx.update(grads, tx.init(grads))
      >>> print(jnp.diagonal(updates["kernel"]).round(3), updates["bias"])
      [1. 1. 0.] [1. 1. 1.]

    Source: Saheb Pasand and Dohmatob, *Egalitarian Gradient Descent*, arXiv
    2510.04930, whose ranks are 4 to 128.
    """
    rank = checked_count("rank", rank)
    jax.eval_shape(lambda: _as_key(seed))
    check_integer("power_iterations", power_iterations, at_least=0)
    check_dimension_numbers(weight_dimension_numbers)

    def init_fn(params: optax.Params) -> ScaleByRandomizedEGDState:
        del params
        # A copy: who donates the state must not give away the key of the user.
        key = jnp.copy(jax.random.key_data(_as_key(seed)))
        return ScaleByRandomizedEGDState(key, jnp.zeros([], jnp.int32))

    def update_fn(
        updates: optax.Updates,
        state: ScaleByRandomizedEGDState,
        params: optax.Params | None = None,
        **extra_args: Any,
    ) -> tuple[optax.Updates, ScaleByRandomizedEGDState]:
        del params, extra_args
        generator = jax.random.key_impl(_as_key(seed))
        key, sketch_key = jax.random.split(
            jax.random.wrap_key_data(state.key, impl=generator)
        )
        call = itertools.count()

        def whiten(stack: jax.Array) -> tuple[jax.Array, jax.Array]:
            return randomized_polar_and_failures(
                stack,
                rank,
                key=jax.random.fold_in(brought_along(sketch_key), next(call)),
                power_iterations=power_iterations,
            )

        updates, failures = map_matrices_and_count(
            whiten, updates, weight_dimension_numbers
        )
        return updates, ScaleByRandomizedEGDState(
            jax.random.key_data(key), state.fallbacks + failures
        )

    return optax.GradientTransformationExtraArgs(init_fn, update_fn)


def _as_key(seed: jax.typing.ArrayLike) -> jax.Array:
    if isinstance(seed, jax.Array) and jnp.issubdtype(seed.dtype, jax.dtypes.prng_key):
        check_key("seed", seed)
        return seed
    try:
        # jax.random.key takes a float where it is traced.
        if not jnp.issubdtype(jnp.result_type(seed), jnp.integer):
            raise TypeError("no integer")
        return jax.random.key(seed)
    except (TypeError, ValueError, OverflowError) as error:
        raise ArgumentError(
            "seed must be an integer of 64 bits or a single key, jax.random.key(…), "
            f"got {shown(seed)}"
        ) from error
