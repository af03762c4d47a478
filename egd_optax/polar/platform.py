"""Polar factor by what is best on the platform."""

import jax
import jax.numpy as jnp
from jax import lax

from egd_optax.arguments import checked_matrix
from egd_optax.meshes import keep_sharding
from egd_optax.polar.derivative import with_derivative
from egd_optax.polar.eigh import iterated, on_a_cpu
from egd_optax.polar.fallback import with_fallback
from egd_optax.polar.newton_schulz import unrolled
from egd_optax.polar.stacks import of_stacks, one_at_a_time_on_cpu


def polar_factor(x: jax.Array) -> jax.Array:
    r"""Polar factor of each matrix, by what is best where the program runs.

    For X = U S Vᴴ returns U Vᴴ, with the pseudo-inverse where X is rank-deficient:

    ======================  ==========================================================
    CPU                     :func:`polar_by_eigh`: one eigendecomposition in float64
    TPU, and others         :func:`polar_by_newton_schulz`: matrix products alone, ten
                            steps (in float64 fourteen)
    GPU                     the same; matrices with a side of at most 32 by
                            :func:`polar_by_eigh`, a whole stack in one batched call
    ======================  ==========================================================

    The choice is made when the program is compiled for a platform, not by what there is
    where it is traced. It is what :func:`scale_by_egd` and :func:`egd` take for
    ``polar_fn=None``. Where it takes products, directions with σ below 3e-5 · σ_max
    (float64: 1e-7) are damped or dropped; elsewhere see ``rcond`` of
    :func:`polar_by_eigh`.

    Args:
      x: array of shape ``(..., m, n)``, floating or complex; leading axes are batch
        axes. Computed in at least float32, whatever its dtype, at full precision of
        products whatever the platform's default.

    Returns:
      Array of the shape and dtype of ``x``. A zero matrix gives zero, a matrix with a
      NaN or an infinity gives NaN; scaling ``x`` by a power of two changes nothing.

    Raises:
      ArgumentError: ``x`` has fewer than two axes or is neither floating nor complex.

    Example:
      >>> import jax.numpy as jnp
      >>> from egd_optax import polar_factor
      >>> x = jnp.array([[3.0, 0.0, 0.0], [0.0, 0.0, -0.001]])
      >>> bool(jnp.allclose(polar_factor(x), jnp.sign(x), atol=1e-6))
      True

    Source: that of :func:`polar_by_eigh` and :func:`polar_by_newton_schulz`.
    """
    return keep_sharding(lambda x: factor_and_failures(x)[0], checked_matrix(x))


def factor_and_failures(x: jax.Array) -> tuple[jax.Array, jax.Array]:
    """:func:`polar_factor`, and for which matrices ``(...)`` an eigh failed."""
    return of_stacks(_by_platform, checked_matrix(x), None)


# cuSOLVER takes a whole batch of so small matrices at once, by Jacobi's method.
_SMALL = 32


def _by_products(x: jax.Array, rcond: jax.Array) -> tuple[jax.Array, jax.Array]:
    del rcond  # the number of steps says what is dropped
    steps = 10 if jnp.finfo(x.dtype).bits <= 32 else 14
    return unrolled(x, steps), jnp.zeros(x.shape[:-2], bool)


def _on_a_gpu(x: jax.Array, rcond: jax.Array) -> tuple[jax.Array, jax.Array]:
    small = x.shape[-2] <= _SMALL
    return (with_fallback(iterated) if small else _by_products)(x, rcond)


def _on_accelerators(x: jax.Array, rcond: jax.Array) -> tuple[jax.Array, jax.Array]:
    return lax.platform_dependent(
        x, rcond, cuda=_on_a_gpu, rocm=_on_a_gpu, default=_by_products
    )


def _of_one(x: jax.Array, rcond: jax.Array) -> tuple[jax.Array, jax.Array]:
    return lax.platform_dependent(
        x, rcond, cpu=with_fallback(on_a_cpu), default=_on_accelerators
    )


_by_platform = with_derivative(one_at_a_time_on_cpu(_of_one, _on_accelerators))
