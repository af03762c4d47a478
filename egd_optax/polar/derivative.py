"""The derivative of the polar factor, and of the decomposition that it takes."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from egd_optax.polar.linear_algebra import adjoint, product, real_diagonal
from egd_optax.polar.stacks import one_at_a_time_on_cpu

OfStacks = Callable[..., tuple[jax.Array, jax.Array]]


def with_derivative(of_stack: OfStacks) -> OfStacks:
    r"""The same with a derivative, whichever way the polar factor is computed.

    ``of_stack`` gives, of wide matrices ``(..., m, n)`` and of what else it takes, the
    polar factors and a flag each. With X = U S Vᴴ, P = Σ f_i u_i v_iᴴ for f_i = 1 where
    P has the direction and 0 where it was dropped, and E = Uᴴ dX V,

    .. math:: dP = U \Big(\frac{f_i + f_j}{\sigma_i + \sigma_j} \circ \tfrac12 (E - E^H)
        + \frac{f_i - f_j}{\sigma_i - \sigma_j} \circ \tfrac12 (E + E^H)\Big) V^H
        + U \frac{f_i}{\sigma_i} U^H dX (I - V V^H).

    Which directions are dropped counts as constant, and so does all but the matrices.
    A dropped direction by itself has no derivative; a kept one turns towards it by
    1 / (σ_i ∓ σ_j). No denominator is less than 4 eps σ_max, so that dP is finite for
    every finite X: zero for a zero matrix, at most as large as dX over 4 eps σ_max.
    """

    @jax.custom_jvp
    def polar(x: jax.Array, *rest: jax.Array) -> tuple[jax.Array, jax.Array]:
        return of_stack(x, *rest)

    @polar.defjvp
    def derivative(primals: Any, tangents: Any) -> Any:
        factor, flags = polar(*primals)
        none = np.zeros(flags.shape, jax.dtypes.float0)
        return (factor, flags), (_tangent(primals[0], factor, tangents[0]), none)

    return polar


def _tangent(x: jax.Array, factor: jax.Array, dx: jax.Array) -> jax.Array:
    u, s, vh = svd(x)
    v, turned = adjoint(vh), product(adjoint(u), dx)
    # One up to rounding errors where P has the direction, or zero.
    f = (real_diagonal(product(adjoint(u), product(factor, v))) > 0.5).astype(s.dtype)
    least = _negligible(s)

    def share(numerator: jax.Array, denominator: jax.Array) -> jax.Array:
        bounded = jnp.maximum(denominator, least[..., None])
        return (numerator / jnp.where(bounded > 0, bounded, 1)).astype(x.dtype)

    row, column = s[..., :, None], s[..., None, :]
    f_row, f_column = f[..., :, None], f[..., None, :]
    skew = share(f_row + f_column, row + column)
    symmetric = share(jnp.abs(f_row - f_column), jnp.abs(row - column))
    e = product(turned, v)
    within = skew * (e - adjoint(e)) / 2 + symmetric * (e + adjoint(e)) / 2
    result = product(within, vh)
    if x.shape[-2] < x.shape[-1]:
        result += share(f_row, row) * (turned - product(e, vh))
    return product(u, result)


@jax.custom_jvp
def singular_values_of(x: jax.Array) -> jax.Array:
    r"""Singular values of wide or tall matrices ``(batch, m, n)``, descending.

    dσ = Re(uᴴ dX v), and 0 for singular values that are nothing but rounding errors: a
    singular value has a kink at zero. Their sum has the polar factor for a gradient.
    """
    return _values(x)


@singular_values_of.defjvp
def _values_derivative(primals: Any, tangents: Any) -> Any:
    (x,), (dx,) = primals, tangents
    values = singular_values_of(x)
    u, _, vh = svd(x)
    turned = jnp.sum(product(adjoint(u), dx) * vh.conj(), axis=-1).real
    return values, jnp.where(values > _negligible(values), turned, 0)


@jax.custom_jvp
def svd(x: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
    """The thin decomposition of matrices ``(batch, m, n)``, with a derivative.

    Second derivatives of all the above go through it, and are NaN where two singular
    values are equal or one is zero: singular vectors have none there.
    """
    return _decomposed(x)


@svd.defjvp
def _svd_derivative(primals: Any, tangents: Any) -> Any:
    (x,), (dx,) = primals, tangents
    u, s, vh = svd(x)
    v = adjoint(vh)
    e = product(product(adjoint(u), dx), v)
    wide = s.astype(x.dtype)
    row, column = wide[..., :, None], wide[..., None, :]
    eye = jnp.eye(s.shape[-1], dtype=bool)
    inverse_gap = jnp.where(eye, 0, 1 / jnp.where(eye, 1, column**2 - row**2))
    du = product(u, inverse_gap * (e * column + row * adjoint(e)))
    dv = product(v, inverse_gap * (row * e + adjoint(e) * column))
    # What dX turns out of the spans; a phase of u and v together is free.
    inverse = 1 / column
    phase = (jnp.where(eye, e - adjoint(e), 0) / 2).sum(axis=-2, keepdims=True)
    outside_u = product(dx, v) - product(u, e)
    outside_v = product(adjoint(dx), u) - product(v, adjoint(e))
    du += inverse * (outside_u + u * phase)
    dv += inverse * outside_v
    return (u, s, vh), (du, real_diagonal(e), adjoint(dv))


def _negligible(s: jax.Array) -> jax.Array:
    return 4 * float(jnp.finfo(s.dtype).eps) * s[..., :1]


_values = one_at_a_time_on_cpu(lambda x: jnp.linalg.svd(x, compute_uv=False))
_decomposed = one_at_a_time_on_cpu(
    lambda x: tuple(jnp.linalg.svd(x, full_matrices=False))
)
