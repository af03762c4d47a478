"""Polar factor U Vᴴ of a matrix X = U S Vᴴ: every singular value replaced by one."""

import functools
import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax


def polar_by_eigh(
    x: jax.Array, *, rcond: jax.typing.ArrayLike | None = None
) -> jax.Array:
    r"""Polar factor of each matrix, by iterated eigendecomposition of its Gram matrix.

    For X = U S Vᴴ returns U Vᴴ = (X Xᴴ)^(-1/2) X, with the pseudo-inverse where X is
    rank-deficient: directions with σ ≤ rcond · σ_max are dropped.

    Forming X Xᴴ squares the condition number, so one eigendecomposition in float32
    only knows the directions with σ well above √eps · σ_max. Each pass therefore sets
    those to one and raises all others by one common factor, which leaves their
    singular vectors alone for the next pass to resolve. Passes stop when every
    direction is resolved: in float32 one suffices up to a condition number of 1e2, two
    up to 1e4, three up to 1e6. A pass after which at most a third or
    two thirds of the directions are left is followed by a pass over those alone.

    Args:
      x: array of shape ``(..., m, n)``, floating or complex; leading axes are batch
        axes. Computed in at least float32, whatever its dtype.
      rcond: singular values up to ``rcond`` times the largest count as zero. None
        takes 4 eps of the dtype computed in (4.8e-7 in float32): that is above the
        rounding noise with which a rank-deficient matrix is multiplied by an orthogonal
        one, and below what a matrix with a condition number of 1e6 needs. numpy's
        ``pinv`` and ``matrix_rank`` scale it with max(m, n) as well, which would drop
        directions that are resolved here.

    Returns:
      Array of the shape and dtype of ``x``. A zero matrix gives zero, a matrix with a
      NaN or an infinity gives NaN; scaling ``x`` by a positive number changes nothing.

    Raises:
      ValueError: ``x`` has fewer than two axes.
      TypeError: ``x`` is neither floating nor complex.

    Example:
      >>> import jax.numpy as jnp
      >>> from egd_optax import polar_by_eigh
      >>> x = jnp.array([[3.0, 0.0, 0.0], [0.0, 0.0, -0.001]])
      >>> bool(jnp.allclose(polar_by_eigh(x), jnp.sign(x), atol=1e-6))
      True

    Source: Saheb Pasand and Dohmatob, *Egalitarian Gradient Descent*, arXiv
    2510.04930, for the use of the polar factor; the iteration is this package's own.
    """
    return _polar_by_eigh(_checked(x), rcond)


def polar_by_svd(
    x: jax.Array, *, rcond: jax.typing.ArrayLike | None = None
) -> jax.Array:
    r"""Polar factor of each matrix through its singular value decomposition.

    The slow, plain reference for :func:`polar_by_eigh`, with the same treatment of
    batch axes, dtypes, rank deficiency, zeros and NaN.

    Args:
      x: array of shape ``(..., m, n)``, floating or complex.
      rcond: singular values up to ``rcond`` times the largest count as zero. None
        takes 4 eps of the dtype computed in, at least float32.

    Returns:
      U Vᴴ for X = U S Vᴴ, of the shape and dtype of ``x``.

    Raises:
      ValueError: ``x`` has fewer than two axes.
      TypeError: ``x`` is neither floating nor complex.

    Example:
      >>> import jax.numpy as jnp
      >>> from egd_optax import polar_by_svd
      >>> print(polar_by_svd(jnp.array([[0.0, 2.0], [0.0, 0.0]])))
      [[0. 1.]
       [0. 0.]]
    """
    x = _checked(x)
    if x.size == 0:
        return x
    scaled = _unit_scale(x)
    if rcond is None:
        rcond = _default_rcond(scaled.dtype)
    u, s, vh = jnp.linalg.svd(scaled, full_matrices=False)
    keep = s > rcond * s[..., :1]
    # NaN is kept: a comparison would turn it into a dropped direction.
    u = u * jnp.where(jnp.isnan(s), s, keep)[..., None, :]
    return _product(u, vh).astype(x.dtype)


def _checked(x: jax.typing.ArrayLike) -> jax.Array:
    x = jnp.asarray(x)
    if x.ndim < 2:
        raise ValueError(f"a polar factor needs an array (..., m, n), got {x.shape=}")
    if not jnp.issubdtype(x.dtype, jnp.inexact):
        raise TypeError(f"a polar factor needs a floating dtype, got {x.dtype}")
    return x


# Outside of jit, its loop would be compiled anew at every call.
@jax.jit
def _polar_by_eigh(x: jax.Array, rcond: jax.typing.ArrayLike | None) -> jax.Array:
    if x.size == 0:
        return x
    wide = x if x.shape[-2] <= x.shape[-1] else _adjoint(x)
    scaled = _unit_scale(wide)
    if rcond is None:
        rcond = _default_rcond(scaled.dtype)
    stack = scaled.reshape(-1, *scaled.shape[-2:])
    rcond = jnp.broadcast_to(jnp.asarray(rcond, stack.real.dtype), len(stack))
    result = _whiten_stack(stack, rcond)
    result = result.reshape(scaled.shape).astype(x.dtype)
    return result if wide is x else _adjoint(result)


@jax.custom_batching.custom_vmap
def _whiten_stack(stack: jax.Array, rcond: jax.Array) -> jax.Array:
    if len(stack) == 1:
        return _whiten(stack[0], rcond[0])[None]
    # LAPACK takes one matrix after another anyway; mapped, each of them stops at its
    # own number of passes. Accelerators batch.
    return lax.platform_dependent(
        stack,
        rcond,
        cpu=lambda *args: lax.map(lambda one: _whiten(*one), args),
        default=_whiten,
    )


# Left to itself, vmap would run every branch of every pass for every matrix, and with
# several decompositions at once XLA's thread pool was seen to lock up on two cores.
@_whiten_stack.def_vmap
def _whiten_stack_under_vmap(
    axis_size: int, in_batched: list[bool], stack: jax.Array, rcond: jax.Array
) -> tuple[jax.Array, bool]:
    if not in_batched[0]:
        stack = jnp.broadcast_to(stack, (axis_size, *stack.shape))
    if not in_batched[1]:
        rcond = jnp.broadcast_to(rcond, (axis_size, *rcond.shape))
    flat = _whiten_stack(stack.reshape(-1, *stack.shape[2:]), rcond.reshape(-1))
    return flat.reshape(stack.shape), True


def _default_rcond(dtype: jax.typing.DTypeLike) -> float:
    return 4 * float(jnp.finfo(dtype).eps)


def _adjoint(x: jax.Array) -> jax.Array:
    return x.mT.conj()


# Accelerators round the factors of a float32 product to fewer bits unless told not to,
# and a Gram matrix with 10 bits says nothing about small directions.
_product = functools.partial(jnp.matmul, precision=lax.Precision.HIGHEST)


def _unit_scale(x: jax.Array) -> jax.Array:
    """Each matrix over its largest entry, in at least float32."""
    x = x.astype(jnp.promote_types(x.dtype, jnp.float32))
    largest = jnp.max(jnp.abs(x), axis=(-2, -1), keepdims=True)
    # A matrix of subnormal numbers is flushed to zero by the hardware: dividing by
    # its scale would give NaN.
    tiny = jnp.finfo(x.dtype).tiny
    return x / jnp.where(largest < tiny, 1, largest)


_MOST_PASSES = 8


class _Passes(NamedTuple):
    """Where the iteration stands: ``vectors @ damping @ rows`` has the polar factor.

    Damped rows that are resolved have norm one; the others come before them.
    """

    vectors: jax.Array  # (..., m, m), unitary
    damping: jax.Array  # (..., m, m), not yet multiplied: the last one need not be
    rows: jax.Array  # (..., m, n), nearly orthogonal
    pending: jax.Array  # (..., m), bool: rows that another pass must resolve
    floor: jax.Array  # (...), real: the size up to which a row counts as zero


def _whiten(x: jax.Array, rcond: jax.Array) -> jax.Array:
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
    return _product(_product(passes.vectors, passes.damping), passes.rows)


def _first_pass(x: jax.Array, rcond: jax.Array) -> _Passes:
    vectors = _left_vectors(x)
    rows = _product(_adjoint(vectors), x)
    largest = jnp.max(jnp.linalg.norm(rows, axis=-1), axis=-1)
    return _resolve(vectors, rows, floor=rcond * largest)


def _later_pass(passes: _Passes, size: int) -> _Passes:
    """A pass in which the rows after the first ``size`` are resolved already."""
    damped = _product(passes.damping, passes.rows)
    block, rest = damped[..., :size, :], damped[..., size:, :]
    left, right = passes.vectors[..., :size], passes.vectors[..., size:]

    # Both parts overlap by some eps, and beside a small row that is much. Rotating by
    # the angle between them leaves the square of it.
    energy = jnp.sum(jnp.abs(block) ** 2, axis=-1, keepdims=True)
    overlap = _product(block, _adjoint(rest))
    angle = jnp.where(energy < 0.9, overlap / (1 - jnp.minimum(energy, 0.9)), 0)
    block, rest, left, right = (
        block - _product(angle, rest),
        rest + _product(_adjoint(angle), block),
        left - _product(right, _adjoint(angle)),
        right + _product(left, angle),
    )

    inner = _left_vectors(block)
    return _resolve(
        vectors=jnp.concatenate([_product(left, inner), right], axis=-1),
        rows=jnp.concatenate([_product(_adjoint(inner), block), rest], axis=-2),
        floor=passes.floor,
    )


def _left_vectors(x: jax.Array) -> jax.Array:
    # eigh reads one triangle; by default it would average both first.
    return lax.linalg.eigh(_product(x, _adjoint(x)), symmetrize_input=False)[0]


def _resolve(vectors: jax.Array, rows: jax.Array, floor: jax.Array) -> _Passes:
    """How to set the large of nearly orthogonal rows to norm one and raise the rest."""
    gram = _product(rows, _adjoint(rows))
    # Squared row norms know small singular values far better than the eigenvalues do,
    # whose error is relative to the largest.
    energy = jnp.diagonal(gram, axis1=-2, axis2=-1).real
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
