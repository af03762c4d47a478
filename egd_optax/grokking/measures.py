"""What happens inside of a network while it groks: measures of the literature.

Each takes a :class:`~egd_optax.grokking.training.snapshots.Snapshot` and gives a number
or several by name; :func:`~egd_optax.grokking.training.run.train` evaluates those that
it is given beside accuracy, inside the compiled program. A measure of one's own is such
a function.
"""

import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

import egd_optax
from egd_optax.grokking.problems.harmonics import Harmonics, harmonics
from egd_optax.grokking.problems.losses import LOSSES
from egd_optax.grokking.training.snapshots import Measure, Snapshot

# Components that count as the key ones: Nanda et al. found five.
KEY_COMPONENTS = 5
Scalars = dict[str, jax.Array]


def weight_norm(snapshot: Snapshot) -> Scalars:
    r"""Frobenius norm of every leaf of the parameters, and ``all`` of them together.

    .. math:: \|W\|_F = \Big(\sum_{ij} W_{ij}^2\Big)^{1/2}

    Source: Liu et al., *Omnigrok*, arXiv 2210.01117.
    """
    norms = {name: jnp.linalg.norm(x) for name, x in _leaves(snapshot.params).items()}
    return norms | {"all": _norm(snapshot.params)}


def distance(snapshot: Snapshot) -> jax.Array:
    r"""How far all parameters moved since the start: :math:`\|\theta - \theta_0\|_2`.

    Source: Lyu et al., *Dichotomy of Early and Late Phase Implicit Biases Can Provably
    Induce Grokking*, arXiv 2311.18817, for its use.
    """
    moved = jax.tree.map(lambda a, b: a - b, snapshot.params, snapshot.initial)
    return _norm(moved)


def effective_rank(snapshot: Snapshot) -> Scalars:
    """Effective rank of every matrix of the weights and of the gradient:
    :func:`egd_optax.effective_ranks`; the mean of those that are stacked in a leaf.
    """
    return _spectral(egd_optax.effective_ranks, jnp.mean, snapshot)


def condition_number(snapshot: Snapshot) -> Scalars:
    """Condition number of every matrix of the weights and of the gradient:
    :func:`egd_optax.condition_numbers`; the largest of those stacked in a leaf.
    """
    return _spectral(egd_optax.condition_numbers, jnp.max, snapshot)


def alignment(snapshot: Snapshot) -> Scalars:
    r"""Cosine between the update of a leaf and the leaf itself.

    .. math:: \langle \Delta W, W \rangle / (\|\Delta W\|_F \|W\|_F)

    It is −1 where a step does nothing but shrink the weights, and 1 where it does
    nothing but scale them up (Prieto et al., arXiv 2501.04697, call that naive loss
    minimization); 0 where either is zero.
    """

    def cosine(update: jax.Array, weight: jax.Array) -> jax.Array:
        product = jnp.linalg.norm(update) * jnp.linalg.norm(weight)
        inner = jnp.sum(update * weight)
        return jnp.where(product == 0, 0, inner / jnp.where(product == 0, 1, product))

    updates, weights = _leaves(snapshot.updates), _leaves(snapshot.params)
    return {name: cosine(updates[name], weights[name]) for name in weights}


def dead_units(snapshot: Snapshot) -> jax.Array:
    """Share of the hidden units whose input is positive for no training example.

    The model tells what comes into its units: ``pre_activations(inputs)``, a list of
    arrays ``(..., units)``.

    Raises:
      ValueError: the model has no such method.
    """
    read = _method(snapshot, "pre_activations", "dead-units")
    layers = read(snapshot.inputs[snapshot.split.train])
    dead = [jnp.all(x <= 0, axis=tuple(range(x.ndim - 1))) for x in layers]
    return jnp.mean(jnp.concatenate(dead), dtype=jnp.float32)


def fourier_share(snapshot: Snapshot) -> Scalars:
    r"""How much of the embedding's energy lies in how few harmonics of the group.

    With E the embedding of the task's symbols, a row each, and P_k the projection onto
    component k of the functions on the group (for a cyclic one cos and sin of
    2πkx/n), constants left out:

    .. math:: e_k = \|P_k E\|_F^2 \Big/ \sum_{j > 0} \|P_j E\|_F^2

    ``five``: the sum of the five largest; ``components``: exp(−Σ e_k log e_k), the
    effective number of components. Of several embeddings (the two one-hots of a
    net) the energies are added up.

    Raises:
      ValueError: the model has no ``embeddings(symbols)``, arrays ``(symbols,
        features)``; the task is on no group.

    Source: Nanda et al., arXiv 2301.05217; for other groups Chughtai et al., arXiv
    2302.03025.
    """
    read = _method(snapshot, "embeddings", "fourier-share")
    found = _harmonics(snapshot, "fourier-share")
    waves = jnp.asarray(found.basis, jnp.float32)
    energy = sum(
        jnp.sum(_product(waves.T, table) ** 2, axis=1)
        for table in read(snapshot.task.symbols)
    )
    by_component = jax.ops.segment_sum(
        energy, found.component, int(found.component.max()) + 1
    )[1:]
    total = jnp.sum(by_component)
    share = by_component / jnp.where(total == 0, 1, total)
    few = min(KEY_COMPONENTS, len(share))
    return {
        "five": jnp.sum(jax.lax.top_k(share, few)[0]),
        "components": jnp.exp(jnp.sum(jax.scipy.special.entr(share))),
    }


def progress(snapshot: Snapshot) -> Scalars:
    r"""Restricted and excluded loss on the key components, and how many these explain.

    M is the mean of the logits over all examples with one answer, a function on the
    group in each column. Its five components with the most energy are the key ones, and
    K the projection onto them. ``restricted``: the loss on all examples if the logits
    of an example with answer x were the row x of the key components and the constant
    part of M; ``excluded``: the loss on the training part without the key components,
    logits minus row x of K M; ``share``: the energy of K M, of that of M without its
    constants.

    Raises:
      ValueError: the task is on no group, or its loss is no cross-entropy.

    Source: Nanda et al., *Progress measures for grokking via mechanistic
    interpretability*, arXiv 2301.05217, who take the key frequencies from the neurons
    at the end of training; here they are those of the moment.
    """
    task, found = snapshot.task, _harmonics(snapshot, "progress")
    if task.loss != "cross-entropy" or task.classes != len(found.basis):
        raise ValueError(f"{task.name} has no logits on a group: no measure progress")
    model: Any = snapshot.model
    # Part by part, as accuracy is evaluated: the compiler sees that it is the same.
    parts = [part for part in snapshot.split if len(part)]
    logits = [model(snapshot.inputs[part]) for part in parts]
    # The answers, not what a corrupted training part is given for them.
    answers = [jnp.asarray(task.labels)[part] for part in parts]
    counts = jnp.asarray(np.bincount(task.labels, minlength=task.classes), jnp.float32)
    total = sum(
        jax.ops.segment_sum(x, y, task.classes)
        for x, y in zip(logits, answers, strict=True)
    )
    mean = total / jnp.maximum(counts, 1)[:, None]
    waves = jnp.asarray(found.basis, jnp.float32)
    heights = _product(waves.T, mean)
    energy = jax.ops.segment_sum(
        jnp.sum(heights**2, axis=1), found.component, int(found.component.max()) + 1
    )
    strengths, key = jax.lax.top_k(energy[1:], min(KEY_COMPONENTS, len(energy) - 1))
    is_key = jnp.any(found.component[:, None] == key + 1, axis=1)
    constant = jnp.asarray(found.component == 0)
    kept = _product(waves, jnp.where(is_key[:, None], heights, 0))
    restricted = kept + _product(waves, jnp.where(constant[:, None], heights, 0))
    loss = LOSSES[task.loss]
    every = jnp.asarray(task.labels)
    excluded, _ = loss(logits[0] - kept[answers[0]], answers[0])
    energies = jnp.sum(energy[1:])
    return {
        "restricted": jnp.mean(loss(restricted[every], every)[0]),
        "excluded": jnp.mean(excluded),
        "share": jnp.sum(strengths) / jnp.where(energies == 0, 1, energies),
    }


MEASURES: dict[str, Measure] = {
    "weight-norm": weight_norm,
    "distance": distance,
    "effective-rank": effective_rank,
    "condition-number": condition_number,
    "alignment": alignment,
    "dead-units": dead_units,
    "fourier-share": fourier_share,
    "progress": progress,
}


def measures(names: Sequence[str]) -> dict[str, Measure]:
    """The measures of these names.

    Raises:
      ValueError: there is none of a name.
    """
    for name in names:
        if name not in MEASURES:
            raise ValueError(
                f"unknown measure {name!r}: choose among {', '.join(MEASURES)}"
            )
    return {name: MEASURES[name] for name in names}


def _spectral(
    fn: Callable[..., Any],
    of_stack: Callable[[jax.Array], jax.Array],
    snapshot: Snapshot,
) -> Scalars:
    found: Scalars = {}
    for kind, tree in ("weights", snapshot.params), ("gradient", snapshot.grads):
        values = fn(tree, weight_dimension_numbers=_every_matrix)
        for name, value in _leaves(values).items():
            found[f"{kind}/{name}"] = of_stack(value)
    return found


def _every_matrix(params: optax.Params) -> optax.Params:
    """As Flax has its layers, and embeddings, which these numbers leave out."""
    numbers = egd_optax.flax_dimension_numbers(
        params, named={"embedding": optax.contrib.MuonDimensionNumbers()}
    )
    return numbers


def _leaves(tree: Any) -> dict[str, jax.Array]:
    """Leaves by their path, ``hidden.kernel``."""
    found = jax.tree_util.tree_flatten_with_path(tree)[0]
    return {
        ".".join(str(part) for part in map(_key, path) if part is not None): leaf
        for path, leaf in found
    }


def _key(entry: Any) -> Any:
    """What a path says at one place; nothing, inside of a Flax variable."""
    return getattr(entry, "key", getattr(entry, "idx", None))


def _norm(tree: optax.Params) -> jax.Array:
    return jnp.sqrt(sum(jnp.sum(x**2) for x in jax.tree.leaves(tree)))


def _method(snapshot: Snapshot, name: str, measure: str) -> Callable[..., Any]:
    model = snapshot.model
    method = getattr(model, name, None)
    if method is None:
        raise ValueError(
            f"the measure {measure} needs a model with {name}, and "
            f"{type(model).__name__} has none"
        )
    return method


def _harmonics(snapshot: Snapshot, measure: str) -> Harmonics:
    if snapshot.task.translations is None:
        raise ValueError(
            f"the measure {measure} needs a task on a group, and "
            f"{snapshot.task.name} is none"
        )
    return _known_harmonics(snapshot.task.translations)


@functools.lru_cache(maxsize=8)
def _known_harmonics(translations: Callable[[], np.ndarray]) -> Harmonics:
    return harmonics(translations())


_product = functools.partial(jnp.matmul, precision=jax.lax.Precision.HIGHEST)
