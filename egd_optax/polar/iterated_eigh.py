"""Whitening by repeated eigendecomposition of a Gram matrix."""

import functools
import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from egd_optax.polar.linear_algebra import adjoint, gram_matrix, product, real_diagonal

_MOST_PASSES = 8


class _Passes(NamedTuple):
    """Where the iteration stands: ``vectors @ rows`` has the polar factor of x.

    Until it is finished the rows are nearly orthogonal, in ascending order: those that
    are resolved are not the first ones.
    """

    vectors: jax.Array  # (..., m, m), unitary until the matrix is finished
    rows: jax.Array  # (..., m, n)
    floor: jax.Array  # (...), real: the share of the largest row that counts as zero
    unfinished: jax.Array  # (...), bool


def whiten(x: jax.Array, rcond: jax.Array) -> jax.Array:
    """Polar factor of wide matrices ``(..., m, n)``, m ≤ n, with entries below four."""
    vectors = _left_vectors(x)
    unfinished = jnp.ones(x.shape[:-2], bool)
    first = _Passes(vectors, product(adjoint(vectors), x), rcond, unfinished)
    # The floor rises with every pass, so that three or four suffice in float32; the
    # bound is for what rounding may do.
    passes, _ = lax.while_loop(
        lambda carry: jnp.any(carry[0].unfinished) & (carry[1] < _MOST_PASSES),
        lambda carry: (_resolve(carry[0]), carry[1] + 1),
        (first, 0),
    )
    return product(passes.vectors, passes.rows)


def _resolve(passes: _Passes) -> _Passes:
    """Sets the large of the rows to norm one, raises the rest and turns those anew."""
    vectors, rows = passes.vectors, passes.rows
    gram = gram_matrix(rows)
    # Squared row norms know small singular values far better than the eigenvalues do,
    # whose error is relative to the largest.
    energy = real_diagonal(gram)
    top = jnp.max(energy, axis=-1, keepdims=True)
    floor = passes.floor[..., None] * jnp.sqrt(top)
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
    damping = _damped_inverse_root(gram, energy, cut, keep)

    def go_on() -> tuple[jax.Array, jax.Array]:
        # What is noise so far is raised with the rest, and may be more after that.
        small = energy < cut
        turn = _tilt(gram, energy, small)
        raised = product(damping - product(turn, damping), rows)
        return _diagonalized(vectors + product(vectors, turn), raised, small)

    vectors, rows = lax.cond(
        jnp.any(pending), go_on, lambda: (product(vectors, damping), rows)
    )
    floor = (floor / jnp.sqrt(cut))[..., 0]
    following = _Passes(vectors, rows, floor, jnp.any(pending, axis=-1))
    if rows.ndim == 2:
        return following

    # A finished matrix stays as it is while others of its batch go on.
    def advance(new: jax.Array, old: jax.Array) -> jax.Array:
        axes = tuple(range(passes.unfinished.ndim, new.ndim))
        return jnp.where(jnp.expand_dims(passes.unfinished, axes), new, old)

    return jax.tree.map(advance, following, passes)


def _diagonalized(
    vectors: jax.Array, rows: jax.Array, small: jax.Array
) -> tuple[jax.Array, jax.Array]:
    """The same, the first directions turned so that their rows are orthogonal.

    A third of all directions, two thirds or all: as many as it takes to have all that
    are small, since these come first.
    """
    m = rows.shape[-2]
    sizes = [max(third * m // 3, 1) for third in (1, 2, 3)]

    def turned(size: int) -> tuple[jax.Array, jax.Array]:
        left, block = vectors[..., :size], rows[..., :size, :]
        inner = _left_vectors(block)
        block = product(adjoint(inner), block)
        return (
            jnp.concatenate([product(left, inner), vectors[..., size:]], axis=-1),
            jnp.concatenate([block, rows[..., size:, :]], axis=-2),
        )

    too_small = [jnp.any(small[..., size:]) for size in sizes[:-1]]
    return lax.switch(
        sum(flag.astype(jnp.int32) for flag in too_small),
        [functools.partial(turned, size) for size in sizes],
    )


def _left_vectors(x: jax.Array) -> jax.Array:
    # eigh reads one triangle; by default it would average both first.
    return lax.linalg.eigh(gram_matrix(x), symmetrize_input=False)[0]


def _tilt(gram: jax.Array, energy: jax.Array, small: jax.Array) -> jax.Array:
    """The rotation, less one, that turns small directions away from the others.

    By the angle of first-order perturbation theory. Each large direction leans towards
    the small ones by some eps, and beside a small row that is much.
    """
    own, other = energy[..., :, None], energy[..., None, :]
    between = small[..., :, None] & ~small[..., None, :] & (own <= 0.9 * other)
    angle = jnp.where(between, gram / jnp.where(between, other - own, 1), 0)
    return angle - adjoint(angle)


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
    large = energy >= cut
    one_sided = large[..., :, None] != large[..., None, :]
    # Clipping leaves the gap or takes it away where both are on one side. It may be
    # zero there, or so little that its product with the roots is.
    slope = jnp.where(
        one_sided,
        clipped_gap / jnp.where(one_sided, gap, 1),
        large[..., None, :].astype(gap.dtype),
    )
    between_kept = -slope / (a * b * (a + b))
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
