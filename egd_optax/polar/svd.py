"""Polar factor by singular value decomposition."""

import jax
import jax.numpy as jnp

from egd_optax.arguments import checked_matrix
from egd_optax.meshes import keep_sharding
from egd_optax.polar.derivative import with_derivative
from egd_optax.polar.fallback import with_fallback
from egd_optax.polar.linear_algebra import product
from egd_optax.polar.stacks import checked_rcond, of_stacks, one_at_a_time_on_cpu


def polar_by_svd(
    x: jax.Array, *, rcond: jax.typing.ArrayLike | None = None
) -> jax.Array:
    r"""Polar factor of each matrix through its singular value decomposition.

    The slow, plain reference for :func:`polar_by_eigh`, with the same treatment of
    batch axes, dtypes, rank deficiency, zeros and NaN, and the same derivatives.

    Args:
      x: array of shape ``(..., m, n)``, floating or complex.
      rcond: singular values up to ``rcond`` times the largest count as zero. None
        takes 4 eps of the dtype computed in, at least float32. From 300 rows and
        columns on LAPACK's errors can exceed that: one in twenty rank-deficient
        matrices has a null direction come out as one.

    Returns:
      U Vᴴ for X = U S Vᴴ, of the shape and dtype of ``x``.

    Raises:
      ArgumentError: ``x`` has fewer than two axes or is neither floating nor complex;
        ``rcond`` is no number in [0, 1).

    Example:
      >>> import jax.numpy as jnp
      >>> from egd_optax import polar_by_svd
      >>> print(polar_by_svd(jnp.array([[0.0, 2.0], [0.0, 0.0]])))
      [[0. 1.]
       [0. 0.]]
    """
    return keep_sharding(
        lambda x: of_stacks(_by_svd, x, checked_rcond(rcond))[0], checked_matrix(x)
    )


def _without_small_directions(x: jax.Array, rcond: jax.Array) -> jax.Array:
    u, s, vh = jnp.linalg.svd(x, full_matrices=False)
    keep = (s > rcond * s[0]).astype(s.dtype)
    # NaN is kept: a comparison would turn it into a dropped direction.
    return product(u * jnp.where(jnp.isnan(s), s, keep)[None].astype(u.dtype), vh)


_by_svd = with_derivative(
    one_at_a_time_on_cpu(with_fallback(_without_small_directions))
)
