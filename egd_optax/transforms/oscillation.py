"""Whether steps move back and forth: the cosine of a gradient with the momentum."""

import functools

import jax
import jax.numpy as jnp
import optax
from jax import lax

from egd_optax.leaves.layouts import (
    MatrixLayout,
    WeightDimensionNumbers,
    matrix_layouts,
    to_matrices,
)
from egd_optax.meshes import same_everywhere
from egd_optax.polar.linear_algebra import (
    at_least_float32,
    largest_magnitude,
    unit_scale,
)


def mean_cosine(
    gradients: optax.Updates,
    momentum: optax.Updates,
    weight_dimension_numbers: WeightDimensionNumbers = None,
) -> jax.Array:
    r"""Mean over all matrices of the cosine of gradient and momentum, float32.

    .. math:: \frac{\langle G_t, M_{t-1} \rangle}{\|G_t\|_F \, \|M_{t-1}\|_F}

    Zero for a matrix where one of the two is zero or not finite. Of ``momentum`` no
    leaves are there but those that are matrices.

    Source: the sign of the product of successive gradients, below zero where steps move
    back and forth around a minimum, is Pflug's statistic (*Non-asymptotic confidence
    bounds for stochastic approximation algorithms with constant step size*,
    Monatshefte für Mathematik 110, 1990; Chee and Toulis, arXiv 1710.06382). With the
    momentum in place of the last gradient nothing more has to be stored.
    """
    layouts = matrix_layouts(gradients, weight_dimension_numbers)
    leaves = zip(layouts, jax.tree.leaves(gradients), strict=True)
    matrices = [(layout, leaf) for layout, leaf in leaves if layout is not None]
    pairs = zip(matrices, jax.tree.leaves(momentum), strict=True)
    cosines = [
        same_everywhere(functools.partial(_cosines, layout), (gradient, before))
        for (layout, gradient), before in pairs
    ]
    count = sum(map(len, cosines))
    total = sum(map(jnp.sum, cosines), jnp.zeros([], jnp.float32))
    return total / max(1, count)


# Outside of a program one call a leaf, not twenty.
@functools.partial(jax.jit, static_argnums=0)
def _cosines(layout: MatrixLayout, pair: tuple[jax.Array, jax.Array]) -> jax.Array:
    """One for each matrix of a leaf, float32."""
    g, m = (to_matrices(x, layout) for x in pair)
    g, m = (x.astype(at_least_float32(x.dtype)) for x in (g, m))
    sizes = [_inner(x, x) for x in (g, m)]
    usual = functools.reduce(jnp.logical_and, map(_can_be_rooted, sizes))
    roots = [jnp.sqrt(jnp.where(usual, size, 1)) for size in sizes]
    cosine = jnp.where(usual, _inner(g, m), 0) / roots[0] / roots[1]
    # Not always with scales: on a CPU they took a third of a training step on MNIST.
    return lax.cond(
        jnp.all(usual), lambda *_: cosine, _cosines_at_any_scale, g, m
    ).astype(jnp.float32)


def _cosines_at_any_scale(g: jax.Array, m: jax.Array) -> jax.Array:
    # The slope of a norm at zero is infinite, also where the norm is not asked for.
    there = _has_direction(g) & _has_direction(m)
    g, m = (unit_scale(jnp.where(there, x, jnp.ones_like(x))) for x in (g, m))
    cosine = _inner(g, m) / jnp.sqrt(_inner(g, g)) / jnp.sqrt(_inner(m, m))
    return jnp.where(there[:, 0, 0], cosine, 0)


def _inner(x: jax.Array, y: jax.Array) -> jax.Array:
    """Real part of the inner product of each two matrices; shape=(batch,)."""
    return jnp.sum((x.conj() * y).real, axis=(1, 2))


def _can_be_rooted(size: jax.Array) -> jax.Array:
    """No square that counts has over- or underflowed."""
    return (size > 1e-30) & (size < jnp.inf)


def _has_direction(x: jax.Array) -> jax.Array:
    """Neither zero nor without number, of each matrix; shape=(batch, 1, 1)."""
    largest = largest_magnitude(x, axis=(1, 2))
    return largest >= jnp.finfo(largest.dtype).tiny
