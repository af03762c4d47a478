"""⊥Grad: the gradient without its component along the weights."""

from typing import Any

import jax
import jax.numpy as jnp
import optax

from egd_optax.leaves.checks import checked_params
from egd_optax.meshes import brought_along, keep_sharding
from egd_optax.polar.linear_algebra import (
    at_least_float32,
    known_dtype,
    largest_magnitude,
    power_of_two,
)


def orthogonal_gradient() -> optax.GradientTransformationExtraArgs:
    r"""Takes the component along the weights out of each leaf's gradient.

    .. math:: g \leftarrow g - \frac{\langle w, g \rangle}{\langle w, w \rangle} \, w

    where w is the leaf as one vector, and ⟨w, g⟩ = Re Σ w̄ g: complex numbers are pairs
    of real ones, with g the conjugate of what ``jax.grad`` gives. A step along what is
    left turns the weights and scales them only to second order, so that logits cannot
    grow for the sake of the loss alone. Zero weights leave the gradient as it is.

    Put it first in a chain, where the raw gradient comes in. A leaf of one entry never
    moves again once it is not zero; ``optax.masked`` leaves it out.

    Returns:
      A stateless gradient transformation whose ``update`` needs ``params``. Updates
      keep shape and dtype and are computed in at least float32; the norm is not
      restored, as some implementations do.

    Raises:
      ArgumentError: at ``update``, if ``params`` is missing or does not fit the
        gradients, or a leaf is not floating.

    Example:
      >>> import jax.numpy as jnp
      >>> from egd_optax import orthogonal_gradient
      >>> tx = orthogonal_gradient()
      >>> params = jnp.array([2.0, 0.0])
      >>> updates, _ = tx.update(jnp.array([3.0, 4.0]), tx.init(params), params)
      >>> print(updates)
      [0. 4.]

    Source: Prieto et al., *Grokking at the Edge of Numerical Stability*, arXiv
    2501.04697, where it is called ⊥Grad.
    """

    def project(g: jax.Array, w: jax.Array) -> jax.Array:
        dtype = at_least_float32(jnp.promote_types(g.dtype, w.dtype))
        wide, direction = g.astype(dtype), w.astype(dtype)
        scale = power_of_two(largest_magnitude(wide)).astype(dtype)
        wide = wide / scale
        size = power_of_two(largest_magnitude(direction)).astype(dtype)
        direction = direction / size
        length = jnp.sum(direction.conj() * direction).real
        along = jnp.sum(direction.conj() * wide).real
        along = (along / jnp.where(length == 0, 1, length)).astype(dtype)
        return (scale * (wide - along * direction)).astype(known_dtype(g.dtype))

    def update_fn(
        updates: optax.Updates,
        state: optax.EmptyState,
        params: optax.Params | None = None,
        **extra_args: Any,
    ) -> tuple[optax.Updates, optax.EmptyState]:
        del extra_args
        params = checked_params(params, "orthogonal_gradient", updates)

        def projected(g: jax.Array, w: jax.Array) -> jax.Array:
            return keep_sharding(lambda g: project(g, brought_along(w)), g)

        return jax.tree.map(projected, updates, params), state

    return optax.GradientTransformationExtraArgs(optax.init_empty_state, update_fn)
