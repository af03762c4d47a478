"""Whitening by repeated eigendecomposition of a Gram matrix."""

import functools
import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from egd_optax.linear_algebra import adjoint, gram_matrix, product, real_diagonal

_MOST_PASSES = 8


class _Passes(NamedTuple):
    """Where the iteration stands: ``vectors @ damping @ rows`` has the polar factor.

    Damped rows that are resolved have norm one; the others come before them.
    """

    vectors: jax.Array  # (..., m, m), unitary
    damping: jax.Array  # (..., m, m), not yet multiplied: the last one need not be
    rows: jax.Array  # (..., m, n), nearly orthogonal
    gram: jax.Array  # (..., m, m), of the rows
    pending: jax.Array  # (..., m), bool: rows that another pass must resolve
    floor: jax.Array  # (...), real: the size up to which a row counts as zero


def whiten(x: jax.Array, rcond: jax.Array) -> jax.Array:
    """Polar factor of wide matrices ``(..., m, n)``, m ≤ n, with entries up to one."""
    m = x.shape[-2]
    sizes = [max(third * m // 3, 1) for third in (1, 2, 3)]

    def next_pass(passes: _Passes) -> _Passes:
        # Rows stand in ascending order: what is unresolved comes first.
        too_small = [jnp.any(passes.pending[..., size:]) for size in sizes[:-1]]
        following = lax.switch(
            sum(flag.astype(jnp.int32) for flag in too_small),
            [functools.partial(_later_pass, size=size) for size in sizes],
            passes,
        )
        if x.ndim == 2:
            return following
        unfinished = jnp.any(passes.pending, axis=-1)

        # A finished matrix stays as it is while others of its batch go on.
        def advance(new: jax.Array, old: jax.Array) -> jax.Array:
            axes = tuple(range(unfinished.ndim, new.ndim))
            return jnp.where(jnp.expand_dims(unfinished, axes), new, old)

        return jax.tree.map(advance, following, passes)

    # The floor rises with every pass, so that three or four suffice in float32; the
    # bound is for what rounding may do.
    passes, _ = lax.while_loop(
        lambda carry: jnp.any(carry[0].pending) & (carry[1] < _MOST_PASSES),
        lambda carry: (next_pass(carry[0]), carry[1] + 1),
        (_first_pass(x, rcond), 1),
    )
    return product(product(passes.vectors, passes.damping), passes.rows)


def _first_pass(x: jax.Array, rcond: jax.Array) -> _Passes:
    vectors = _left_vectors(x)
    rows = product(adjoint(vectors), x)
    largest = jnp.max(jnp.linalg.norm(rows, axis=-1), axis=-1)
    return _resolve(vectors, rows, gram_matrix(rows), floor=rcond * largest)


def _later_pass(passes: _Passes, size: int) -> _Passes:
    """A pass in which the rows after the first ``size`` are resolved already."""
    vectors, damping = _untilted(passes, size)
    rows = product(damping, passes.rows)
    block, rest = rows[..., :size, :], rows[..., size:, :]
    inner = _left_vectors(block)
    block = product(adjoint(inner), block)
    overlap = product(block, adjoint(rest))
    left, right = vectors[..., :size], vectors[..., size:]
    return _resolve(
        vectors=jnp.concatenate([product(left, inner), right], axis=-1),
        rows=jnp.concatenate([block, rest], axis=-2),
        gram=jnp.block(
            [[gram_matrix(block), overlap], [adjoint(overlap), gram_matrix(rest)]]
        ),
        floor=passes.floor,
    )


def _untilted(passes: _Passes, size: int) -> tuple[jax.Array, jax.Array]:
    """Vectors and damping, the first ``size`` directions turned away from the others.

    By the angle of first-order perturbation theory. Each large direction leans towards
    the small ones by some eps, and beside a small row that is much.
    """
    gram, vectors, damping = passes.gram, passes.vectors, passes.damping
    energy = real_diagonal(gram)
    small, large = energy[..., :size, None], energy[..., None, size:]
    near = small > 0.9 * large
    tilt = jnp.where(
        near, 0, gram[..., :size, size:] / jnp.where(near, 1, large - small)
    )
    left, right = vectors[..., :size], vectors[..., size:]
    upper, lower = damping[..., :size, :], damping[..., size:, :]
    return (
        jnp.concatenate(
            [left - product(right, adjoint(tilt)), right + product(left, tilt)],
            axis=-1,
        ),
        jnp.concatenate(
            [upper - product(tilt, lower), lower + product(adjoint(tilt), upper)],
            axis=-2,
        ),
    )


def _left_vectors(x: jax.Array) -> jax.Array:
    # eigh reads one triangle; by default it would average both first.
    return lax.linalg.eigh(gram_matrix(x), symmetrize_input=False)[0]


def _resolve(
    vectors: jax.Array, rows: jax.Array, gram: jax.Array, floor: jax.Array
) -> _Passes:
    """How to set the large of nearly orthogonal rows to norm one and raise the rest."""
    # Squared row norms know small singular values far better than the eigenvalues do,
    # whose error is relative to the largest.
    energy = real_diagonal(gram)
    top = jnp.max(energy, axis=-1, keepdims=True)
    floor = floor[..., None]
    cut = jnp.maximum(_cut(rows.dtype) * top, floor**2)
    cut = jnp.where(cut > 0, cut, 1)

    # What a small row owes to imperfect vectors lies along the large rows; only what
    # is left tells whether the direction exists.
    large = jnp.where(energy >= cut, energy, jnp.inf)
    owed = jnp.sum(jnp.abs(gram) ** 2 / large[..., None, :], axis=-1)
    own = energy - jnp.where(energy >= cut, 0, owed)
    noise = own <= floor**2
    pending = (energy < cut) & ~noise
    keep = ~noise | jnp.any(pending, axis=-1, keepdims=True)

    return _Passes(
        vectors=vectors,
        damping=_damped_inverse_root(gram, energy, cut, keep),
        rows=rows,
        gram=gram,
        pending=pending,
        floor=(floor / jnp.sqrt(cut))[..., 0],
    )


def _damped_inverse_root(
    gram: jax.Array, energy: jax.Array, cut: jax.Array, keep: jax.Array
) -> jax.Array:
    """f(gram) to first order in its off-diagonal part.

    f(w) = max(w, cut)^(-1/2), and 0 for directions not kept. To first order,
    f(D + O)_ij = O_ij (f(d_i) - f(d_j)) / (d_i - d_j), written here without
    cancellation. Between a kept and a dropped direction the gap is the kept energy.
    """
    clipped = jnp.maximum(energy, cut)
    root = jnp.sqrt(clipped)
    gap = energy[..., :, None] - energy[..., None, :]
    clipped_gap = clipped[..., :, None] - clipped[..., None, :]
    a, b = root[..., :, None], root[..., None, :]
    distinct = gap != 0
    # Where two coincide, the slope of clipping.
    slope = (energy >= cut)[..., None, :]
    between_kept = -jnp.where(distinct, clipped_gap, slope) / (
        a * b * (a + b) * jnp.where(distinct, gap, 1)
    )
    cubed = 1 / (clipped * root)
    to_dropped = jnp.minimum(cubed[..., :, None], cubed[..., None, :])
    kept, other_kept = keep[..., :, None], keep[..., None, :]
    quotient = jnp.where(
        kept & other_kept,
        between_kept,
        jnp.where(kept | other_kept, to_dropped, 0),
    )
    diagonal = jnp.where(keep, 1 / root, 0)
    eye = jnp.eye(gram.shape[-1], dtype=bool)
    return jnp.where(eye, diagonal[..., None, :], quotient * gram)


def _cut(dtype: jax.typing.DTypeLike) -> float:
    # The first-order correction leaves errors of order (eps / cut)²: at this cut, 7e-5
    # in float32, they stay below eps. 1e-5 is too low, 1e-3 takes more passes.
    return 0.2 * math.sqrt(jnp.finfo(dtype).eps)
