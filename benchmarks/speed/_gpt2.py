"""The parameters of a GPT-2, by shape."""

import math
from typing import Any

import jax
import numpy as np
from optax.contrib import MuonDimensionNumbers


def block(width: int) -> dict[str, tuple[int, ...]]:
    """Shapes of the matrices of one block."""
    return {
        "qkv": (width, 3 * width),
        "projection": (width, width),
        "up": (width, 4 * width),
        "down": (4 * width, width),
    }


def shapes(width: int, layers: int) -> dict[str, Any]:
    """Shapes of all parameters, the vectors of a block in one; small: 768 and 12.

    The numbers of tokens and positions are as many times smaller as the width.
    """
    of_block = block(width) | {"vectors": (13 * width,)}
    return {
        "tokens": (math.ceil(50257 * width / 768), width),
        "positions": (math.ceil(1024 * width / 768), width),
        "norm": (2 * width,),
    } | {f"block {layer}": of_block for layer in range(layers)}


def size(width: int, layers: int) -> int:
    """Number of parameters."""
    tree = shapes(width, layers)
    return sum(map(math.prod, jax.tree.leaves(tree, is_leaf=_is_shape)))


def parameters(width: int, layers: int) -> dict[str, Any]:
    """Normal numbers in all these shapes."""
    rng = np.random.default_rng(0)
    return jax.tree.map(
        lambda shape: rng.normal(size=shape).astype(np.float32),
        shapes(width, layers),
        is_leaf=_is_shape,
    )


def matrices(params: Any) -> Any:
    """Dimension numbers: the matrices of the blocks, and not the embeddings."""
    return jax.tree_util.tree_map_with_path(
        lambda path, _: MuonDimensionNumbers() if path[-1].key in block(1) else None,
        params,
    )


def _is_shape(x: Any) -> bool:
    return isinstance(x, tuple)
