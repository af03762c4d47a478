"""Polar factor by eigendecomposition of the Gram matrix."""

import functools
import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from egd_optax.arguments import checked_matrix
from egd_optax.meshes import keep_sharding
from egd_optax.polar.derivative import with_derivative
from egd_optax.polar.fallback import with_fallback
from egd_optax.polar.linear_algebra import adjoint, gram_matrix, product, real_diagonal
from egd_optax.polar.stacks import checked_rcond, of_stacks, one_at_a_time_on_cpu


def polar_by_eigh(
    x: jax.Array, *, rcond: jax.typing.ArrayLike | None = None
) -> jax.Array:
    r"""Polar factor of each matrix, by eigendecomposition of its Gram matrix.

    For X = U S Vᴴ returns U Vᴴ = (X Xᴴ)^(-1/2) X, with the pseudo-inverse where X is
    rank-deficient: directions with σ ≤ rcond · σ_max are dropped.

    Forming X Xᴴ squares the condition number. A CPU therefore computes in float64
    inside, whatever JAX is set to: one eigendecomposition, and for float32 a result
    that is right to the last bit up to a condition number of 1e4, with an error of
    3e-5 at 1e6, where that of a float32 SVD is 4e-2.

    Accelerators, and float64 matrices anywhere, take several eigendecompositions: one
    alone knows the directions with σ well above √eps · σ_max only. Each pass therefore
    sets those to one and raises all others by one common factor, which leaves their
    singular vectors alone for the next pass to resolve. Passes stop when every
    direction is resolved: in float32 one suffices up to a condition number of 1e2, two
    up to 1e4, three up to 1e6. A pass after which at most a third or two thirds of the
    directions are left is followed by a pass over those alone. The error is below that
    of the SVD.

    An eigendecomposition that does not converge answers NaN; a finite matrix that this
    happens to is whitened by :func:`polar_by_newton_schulz` instead, within the same
    compiled program, and no other.

    The derivative, forward and reverse, takes an SVD. It is exact for the directions
    kept, finite for every finite matrix (as if no σ, no sum and no difference of two
    were below 4 eps · σ_max), and zero for a zero matrix. ``rcond`` has none. Second
    derivatives are NaN where singular values are equal or zero.

    Args:
      x: array of shape ``(..., m, n)``, floating or complex; leading axes are batch
        axes. Computed in at least float32, whatever its dtype.
      rcond: singular values up to ``rcond`` times the largest count as zero. None
        takes 4 eps of the dtype computed in (4.8e-7 in float32): that is above the
        rounding noise with which a rank-deficient matrix is multiplied by an orthogonal
        one, and below what a matrix with a condition number of 1e6 needs. numpy's
        ``pinv`` and ``matrix_rank`` scale it with max(m, n) as well, which would drop
        directions that are resolved here. Less than 2.4e-7 counts as that where
        float64 is inside.

    Returns:
      Array of the shape and dtype of ``x``. A zero matrix gives zero, a matrix with a
      NaN or an infinity gives NaN; scaling ``x`` by a positive number changes nothing.

    Raises:
      ArgumentError: ``x`` has fewer than two axes or is neither floating nor complex;
        ``rcond`` is no number in [0, 1).

    Example:
      >>> import jax.numpy as jnp
      >>> from egd_optax import polar_by_eigh
      >>> x = jnp.array([[3.0, 0.0, 0.0], [0.0, 0.0, -0.001]])
      >>> bool(jnp.allclose(polar_by_eigh(x), jnp.sign(x), atol=1e-6))
      True

    Source: Saheb Pasand and Dohmatob, *Egalitarian Gradient Descent*, arXiv
    2510.04930, for the use of the polar factor; how it is computed is this package's.
    """
    return keep_sharding(
        lambda x: polar_and_failures(x, rcond=rcond)[0], checked_matrix(x)
    )


def polar_and_failures(
    x: jax.Array, *, rcond: jax.typing.ArrayLike | None = None
) -> tuple[jax.Array, jax.Array]:
    """:func:`polar_by_eigh`, and for which matrices ``(...)`` the eigh failed."""
    return of_stacks(_by_eigh, checked_matrix(x), checked_rcond(rcond))


def on_a_cpu(x: jax.Array, rcond: jax.Array) -> jax.Array:
    """Polar factor of wide matrices ``(..., m, n)``, m ≤ n, with entries below four.

    A CPU has float64 at half the speed of float32, which beats several passes;
    accelerators have it slowly or not at all.
    """
    return (iterated if jnp.finfo(x.dtype).bits > 32 else in_float64)(x, rcond)


def _whitened(x: jax.Array, rcond: jax.Array) -> jax.Array:
    return lax.platform_dependent(x, rcond, cpu=on_a_cpu, default=iterated)


# Below this, relative to the largest, singular values of a float32 matrix are rounding
# errors; a Gram matrix in float64 has them from 1e-8 on.
_SMALLEST_RCOND = 2.4e-7


def in_float64(x: jax.Array, rcond: jax.Array) -> jax.Array:
    """Polar factor of wide float32 or complex64 matrices ``(..., m, n)``, m ≤ n.

    Forming X Xᴴ squares the condition number, and float64 has the digits for that: up
    to a condition number of 1e4 all bits of the result are right, at 1e6 all but a few.
    """
    dtype = x.dtype
    # JAX has float64 switched off by default; this is its switch for what is traced
    # here alone.
    with jax.enable_x64(True):
        x = x.astype(jnp.complex128 if jnp.iscomplexobj(x) else jnp.float64)
        rcond = jnp.maximum(rcond.astype(jnp.float64), _SMALLEST_RCOND)
        vectors, values = lax.linalg.eigh(gram_matrix(x), symmetrize_input=False)
        keep = values > (rcond[..., None] ** 2) * values[..., -1:]
        root = jnp.where(keep, lax.rsqrt(jnp.where(keep, values, 1)), 0)
        inverse_root = product(
            vectors * root[..., None, :].astype(x.dtype), adjoint(vectors)
        )
        return product(inverse_root, x).astype(dtype)


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


def iterated(x: jax.Array, rcond: jax.Array) -> jax.Array:
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
    gap = jnp.where(between, other - own, 1).astype(gram.dtype)
    angle = jnp.where(between, gram / gap, 0)
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
    diagonal = jnp.where(keep, 1 / root, 0)[..., None, :].astype(gram.dtype)
    eye = jnp.eye(gram.shape[-1], dtype=bool)
    return jnp.where(eye, diagonal, quotient.astype(gram.dtype) * gram)


def _cut(dtype: jax.typing.DTypeLike) -> float:
    # The first-order correction leaves errors of order (eps / cut)²: at this cut, 7e-5
    # in float32, they stay below eps. 1e-5 is too low, 1e-3 takes more passes.
    return 0.2 * math.sqrt(jnp.finfo(dtype).eps)


_by_eigh = with_derivative(
    one_at_a_time_on_cpu(with_fallback(_whitened), with_fallback(iterated))
)
