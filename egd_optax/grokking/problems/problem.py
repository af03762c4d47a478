"""Problems: a task, the model that learns it, and how its source trains the two."""

import dataclasses
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import jax
from flax import nnx

from egd_optax.grokking.problems.arithmetic import (
    OPERATIONS,
    Function,
    modular_arithmetic,
)
from egd_optax.grokking.problems.digits import mnist
from egd_optax.grokking.problems.groups import group
from egd_optax.grokking.problems.models import MLP, TwoLayerNet
from egd_optax.grokking.problems.operations import (
    Encoding,
    binary_operation,
    read_table,
)
from egd_optax.grokking.problems.parities import sparse_parity
from egd_optax.grokking.problems.settings import Settings
from egd_optax.grokking.problems.tasks import Task, check_entries, check_range
from egd_optax.grokking.problems.transformers import OneLayerTransformer, Transformer

Family = Literal["modular", "parity", "transformer", "mnist"]
Model = Literal["mlp", "transformer", "one-layer-transformer"]


@dataclasses.dataclass(frozen=True)
class Problem:
    """What a race is about."""

    task: Task
    family: Family  # the recipes have settings for each
    make_model: Callable[[nnx.Rngs], nnx.Module]
    model_name: str
    settings: Settings
    # The source's plain optimizer, which its method is put in front of.
    learning_rate: float
    weight_decay: float


def with_settings(problem: Problem, **changes: Any) -> Problem:
    """The problem with some of its settings changed."""
    settings = dataclasses.replace(problem.settings, **changes)
    return dataclasses.replace(problem, settings=settings)


TASKS = (*OPERATIONS, "group", "table", "parity", "mnist")

# Width, learning rate and L2 of the two-layer net for parities of 2, 3 and 4 bits.
_PARITY = {2: (50, 0.01, 1e-3), 3: (100, 0.0416239, 1e-2), 4: (100, 0.0230841, 1e-2)}


def modular(
    operation: str | Function,
    modulus: int,
    *,
    model: Model = "mlp",
    width: int | None = None,
) -> Problem:
    """Modular arithmetic: half of all pairs, batches of 512.

    Args:
      operation: as in
        :func:`~egd_optax.grokking.problems.arithmetic.modular_arithmetic`.
      modulus: p.
      model: ``"mlp"``, the two-layer net of Saheb Pasand and Dohmatob (arXiv
        2510.04930) on one-hots; ``"transformer"``, that of Lee et al. (arXiv
        2405.20233) on tokens; ``"one-layer-transformer"``, that of Nanda et al. (arXiv
        2301.05217).
      width: hidden units of the net (512), features of a transformer (128).

    Raises:
      ValueError: as the task, or an unknown model.
    """
    return _on_pairs(
        modular_arithmetic(operation, modulus, encoding=_encoding(model)), model, width
    )


def on_group(
    name: str, word: str = "xy", *, model: Model = "mlp", width: int | None = None
) -> Problem:
    """The same for a group: :func:`~egd_optax.grokking.problems.groups.group`."""
    return _on_pairs(group(name, word, encoding=_encoding(model)), model, width)


def from_table(
    path: Path, *, model: Model = "mlp", width: int | None = None
) -> Problem:
    """The same for any operation, from a file with its table:
    :func:`~egd_optax.grokking.problems.operations.read_table`.
    """
    task = binary_operation(path.stem, read_table(path), encoding=_encoding(model))
    return _on_pairs(task, model, width)


_ENCODINGS: dict[str, Encoding] = {
    "mlp": "one-hot",
    "transformer": "tokens",
    "one-layer-transformer": "three-tokens",
}


def _encoding(model: str) -> Encoding:
    if model not in _ENCODINGS:
        raise ValueError(
            f"unknown model {model!r}: choose one of {', '.join(_ENCODINGS)}"
        )
    return _ENCODINGS[model]


def _on_pairs(task: Task, model: str, width: int | None) -> Problem:
    assert task.symbols is not None
    symbols, settings = task.symbols, Settings(max_steps=1500)
    if model == "mlp":
        hidden = 512 if width is None else _checked_width(width)
        return Problem(
            task,
            "modular",
            lambda rngs: TwoLayerNet(
                2 * symbols, task.classes, width=hidden, rngs=rngs
            ),
            f"two-layer net of width {hidden}",
            settings,
            learning_rate=0.7,
            weight_decay=1e-4,
        )
    features = 128 if width is None else _checked_width(width)
    if features % _HEADS:
        raise ValueError(
            f"width must be a multiple of the transformer's {_HEADS} heads, got "
            f"{features}"
        )
    signs, kind = 2, "transformer"
    make: Callable[..., nnx.Module] = Transformer
    if model != "transformer":
        signs, kind, make = 1, "one-layer transformer", OneLayerTransformer
    return Problem(
        task,
        "transformer",
        lambda rngs: make(
            symbols + signs, task.classes, width=features, heads=_HEADS, rngs=rngs
        ),
        f"{kind} of width {features}",
        settings,
        learning_rate=1e-3,
        weight_decay=0.0,
    )


_HEADS = 4


def parity(
    bits: int,
    subset_size: int,
    *,
    secret_seed: int | None = None,
    width: int | None = None,
) -> Problem:
    """Sparse parity: 2000 of 12 000 inputs, batches of 32, the two-layer net.

    Args:
      bits: n.
      subset_size: k. For 2, 3 and 4 the published width, learning rate and decay are
        taken, for others those of 3.
      secret_seed: as in :func:`~egd_optax.grokking.problems.tasks.sparse_parity`.
      width: hidden units.

    Raises:
      ValueError: as :func:`~egd_optax.grokking.problems.tasks.sparse_parity`.

    Source: Saheb Pasand and Dohmatob, arXiv 2510.04930.
    """
    task = sparse_parity(bits, subset_size, secret_seed=secret_seed)
    published, rate, decay = _PARITY.get(subset_size, _PARITY[3])
    hidden = published if width is None else _checked_width(width)
    return Problem(
        task,
        "parity",
        lambda rngs: TwoLayerNet(bits, 1, width=hidden, random_bias=True, rngs=rngs),
        f"two-layer net of width {hidden}",
        Settings(max_steps=6200, batch_size=32, train_fraction=1 / 6),
        learning_rate=rate,
        weight_decay=decay,
    )


def mnist_1k(*, width: int | None = None) -> Problem:
    """1000 images of MNIST, weights 8 times too large, batches of 200.

    Args:
      width: units of each of the two hidden layers.

    Raises:
      ValueError: as :func:`~egd_optax.grokking.problems.tasks.mnist`.

    Source: Liu et al., *Omnigrok*, arXiv 2210.01117, as Lee et al. ran it.
    """
    hidden = 200 if width is None else _checked_width(width)
    return Problem(
        mnist(),
        "mnist",
        lambda rngs: MLP((784, hidden, hidden, 10), init_scale=8.0, rngs=rngs),
        f"MLP of width {hidden}",
        Settings(max_steps=2000, batch_size=200, train_fraction=0.2, threshold=0.85),
        learning_rate=1e-3,
        weight_decay=0.0,
    )


def _checked_width(width: int) -> int:
    check_range("width", width)
    return width


def check_memory(problem: Problem) -> None:
    """Raises ValueError for a model, or seeds, that take more than a run can have."""
    model = nnx.eval_shape(lambda: problem.make_model(nnx.Rngs(0)))
    shapes = [leaf.shape for leaf in jax.tree.leaves(nnx.state(model, nnx.Param))]
    weights = sum(map(math.prod, shapes))
    widest = max(max(shape) for shape in shapes)
    # Weights, and a layer's outputs for all examples, which an evaluation has at once.
    check_entries("width", widest, max(weights, len(problem.task.labels) * widest))
    seeds = len(problem.settings.seeds)
    check_entries("seeds", seeds, seeds * weights)
