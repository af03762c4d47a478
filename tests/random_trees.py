"""Matrices and trees as gradients could be at their worst, for hypothesis."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from reference import log_spaced

# Each shape compiles anew, hence few. Half precision has the same inside.
SHAPES = [
    (0, 3),
    (1, 1),
    (1, 7),
    (7, 1),
    (2, 2),
    (3, 5),
    (5, 3),
    (16, 16),
    (300, 7),
    (7, 300),
    (300, 300),
]
HALF = (jnp.float16, jnp.bfloat16)
SHAPES_IN_HALF = [(1, 1), (2, 2), (3, 5), (5, 3), (16, 16)]
MASKED = optax.MaskedNode()
# Shapes and dtypes; two matrices of one shape are whitened together.
TREES = [
    {},
    {"none": None, "masked": MASKED},
    {
        "kernel": ((3, 4), jnp.float32),
        "again": ((3, 4), jnp.float32),
        "half": [((3, 4), jnp.bfloat16), ((3, 4), jnp.float16), None],
        "bias": ((4,), jnp.float32),
        "scalar": ((), jnp.float32),
        "masked": MASKED,
    },
    (((0, 3), jnp.float32), ((1, 1), jnp.float16), ((6, 2), jnp.bfloat16), MASKED),
]
seeds = st.integers(0, 2**32 - 1)


def entries(dtype, share=1.0):
    """Any finite number, subnormal ones too, up to a share of the largest."""
    largest = float(jnp.finfo(dtype).max) * share
    width = 64 if dtype == jnp.float64 else 32
    return st.floats(-largest, largest, width=width).map(
        lambda number: float(jnp.dtype(dtype).type(number))
    )


def free(rng, shape, numbers):
    """A few numbers in places of their own, so that large matrices are cheap too."""
    return rng.choice(np.asarray(numbers), size=shape)


def of_low_rank(rng, shape, rank):
    return rng.normal(size=(shape[0], rank)) @ rng.normal(size=(rank, shape[1]))


def graded(rng, shape, condition, rank=None):
    """Singular values from one to one over the condition number, ``rank`` of them."""
    d = min(*shape) if rank is None else min(*shape, rank)
    u, v = (np.linalg.qr(rng.normal(size=(size, d)))[0] for size in shape)
    return (u * log_spaced(d, condition)) @ v.T


def shapes(dtype):
    return st.sampled_from(SHAPES_IN_HALF if dtype in HALF else SHAPES)


@st.composite
def matrices(draw, shape, dtype):
    """One matrix of any kind, finite."""
    rng = np.random.default_rng(draw(seeds))
    if not min(shape):
        return np.zeros(shape, dtype)
    kind = draw(st.sampled_from(["free", "rank", "rows", "graded", "zero"]))
    if kind == "free":
        x = free(rng, shape, draw(st.lists(entries(dtype), min_size=1, max_size=9)))
    elif kind == "rank":
        x = of_low_rank(rng, shape, draw(st.integers(0, 5)))
    elif kind == "rows":
        x = rng.normal(size=shape)[rng.integers(0, shape[0], size=shape[0])]
    elif kind == "graded":
        x = graded(rng, shape, 10 ** draw(st.floats(0, 12)))
    else:
        x = np.zeros(shape)
    return x.astype(dtype)


@st.composite
def trees(draw, tree, share=1.0):
    """Arrays of the shapes and dtypes of one of ``TREES``."""

    def array(shape, dtype):
        values = draw(hnp.arrays(np.float64, shape, elements=entries(dtype, share)))
        return jnp.asarray(values.astype(dtype))

    return jax.tree.map(lambda leaf: array(*leaf), tree, is_leaf=is_array)


def is_array(leaf):
    return isinstance(leaf, tuple) and len(leaf) == 2 and isinstance(leaf[0], tuple)
