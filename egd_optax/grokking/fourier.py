"""Measures of the Fourier circuit that networks learn on groups."""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from egd_optax.grokking.problems.harmonics import Harmonics, harmonics
from egd_optax.grokking.problems.losses import LOSSES
from egd_optax.grokking.training.snapshots import Snapshot

# Components that count as the key ones: Nanda et al. found five.
KEY_COMPONENTS = 5


def fourier_share(snapshot: Snapshot) -> jax.Array:
    r"""How much of the embedding's energy lies in its five largest harmonics.

    With E the embedding of the task's symbols, a row each, and P_k the projection onto
    component k of the functions on the group (for a cyclic one cos and sin of
    2πkx/n), constants left out, the sum of the five largest of

    .. math:: e_k = \|P_k E\|_F^2 \Big/ \sum_{j > 0} \|P_j E\|_F^2

    Of several embeddings (the two one-hots of a net) the energies are added up.

    Raises:
      ValueError: the model has no ``embeddings(symbols)``, arrays ``(symbols,
        features)``; the task is on no group.

    Source: Nanda et al., arXiv 2301.05217; for other groups Chughtai et al., arXiv
    2302.03025.
    """
    share = _shares(jnp.sum(_energies(snapshot, "fourier-share"), axis=1))
    return jnp.sum(jax.lax.top_k(share, min(KEY_COMPONENTS, len(share)))[0])


def fourier_components(snapshot: Snapshot) -> jax.Array:
    r"""Effective number of harmonics of the embedding: exp(−Σ e_k log e_k).

    e_k and errors are those of :func:`fourier_share`.
    """
    share = _shares(jnp.sum(_energies(snapshot, "fourier-components"), axis=1))
    return jnp.exp(jnp.sum(jax.scipy.special.entr(share)))


def fourier_share_of_units(snapshot: Snapshot) -> jax.Array:
    r"""How much of each unit's energy lies in its one largest harmonic.

    The mean over the features of the embedding, each weighted by its energy; 1 where
    every unit of a net has a frequency of its own, however many of these there are.
    Errors are those of :func:`fourier_share`.

    Source: Gromov, *Grokking modular arithmetic*, arXiv 2301.02679, whose solution has
    such units.
    """
    energies = _energies(snapshot, "fourier-share-of-units")
    return jnp.sum(_shares(jnp.max(energies, axis=0), jnp.sum(energies)))


def restricted_loss(snapshot: Snapshot) -> jax.Array:
    r"""Loss on all examples of the key components of the logits alone.

    M is the mean of the logits over all examples with one answer, a function on the
    group in each column. Its five components with the most energy are the key ones;
    the logits of an example with answer x are replaced by row x of these and of the
    constant part of M.

    Raises:
      ValueError: the task is on no group, or its loss is no cross-entropy.

    Source: Nanda et al., *Progress measures for grokking via mechanistic
    interpretability*, arXiv 2301.05217, who take the key frequencies from the neurons
    at the end of training; here they are those of the moment.
    """
    circuit = _circuit(snapshot, "restricted-loss")
    every = jnp.asarray(snapshot.task.labels)
    losses, _ = LOSSES[snapshot.task.loss](
        (circuit.key + circuit.constant)[every], every
    )
    return jnp.mean(losses)


def excluded_loss(snapshot: Snapshot) -> jax.Array:
    r"""Loss on the training part of the logits without their key components.

    Row x of the key components of M (:func:`restricted_loss`, whose errors and source
    are these) is taken off the logits of each example with answer x.
    """
    circuit = _circuit(snapshot, "excluded-loss")
    # Right answers, whatever a corrupted training part is given for them.
    answers = jnp.asarray(snapshot.task.labels)[snapshot.split.train]
    losses, _ = LOSSES[snapshot.task.loss](
        circuit.train_logits - circuit.key[answers], answers
    )
    return jnp.mean(losses)


def key_share(snapshot: Snapshot) -> jax.Array:
    """Share of the key components in the energy of M without its constant part.

    M, errors and source are those of :func:`restricted_loss`.
    """
    circuit = _circuit(snapshot, "key-share")
    varying = jnp.sum((circuit.mean - circuit.constant) ** 2)
    return _shares(jnp.sum(circuit.key**2), varying)


def _harmonics(snapshot: Snapshot, measure: str) -> tuple[jax.Array, np.ndarray]:
    """Basis and component of each of its columns."""
    if snapshot.task.translations is None:
        raise ValueError(
            f"the measure {measure} needs a task on a group, and "
            f"{snapshot.task.name} is none"
        )
    basis, component = _known_harmonics(snapshot.task.translations)
    return jnp.asarray(basis, jnp.float32), component


def _energies(snapshot: Snapshot, measure: str) -> jax.Array:
    """Of each component but the constant one, in each feature of the embedding."""
    read = snapshot.method("embeddings", measure)
    waves, component = _harmonics(snapshot, measure)
    heights = jnp.concatenate(
        [_product(waves.T, table) for table in read(snapshot.task.symbols)], axis=1
    )
    return _by_component(heights**2, component)[1:]


class _Circuit(NamedTuple):
    """The logits as a function of the answer, ``(answers, classes)``."""

    mean: jax.Array
    constant: jax.Array
    key: jax.Array
    train_logits: jax.Array  # (training examples, classes)


def _circuit(snapshot: Snapshot, measure: str) -> _Circuit:
    task = snapshot.task
    waves, component = _harmonics(snapshot, measure)
    if task.loss != "cross-entropy" or task.classes != len(waves):
        raise ValueError(
            f"the measure {measure} needs logits on a group, and {task.name} has none"
        )
    model: Any = snapshot.model
    # Part by part, as accuracy is evaluated: the compiler sees that it is the same.
    parts = [part for part in snapshot.split if len(part)]
    logits = [model(snapshot.inputs[part]) for part in parts]
    answers = jnp.asarray(task.labels)
    total = sum(
        jax.ops.segment_sum(x, answers[part], task.classes)
        for x, part in zip(logits, parts, strict=True)
    )
    counts = np.maximum(np.bincount(task.labels, minlength=task.classes), 1.0)
    mean = total / jnp.asarray(counts, jnp.float32)[:, None]
    heights = _product(waves.T, mean)
    energy = jnp.sum(_by_component(heights**2, component), axis=1)[1:]
    _, key = jax.lax.top_k(energy, min(KEY_COMPONENTS, len(energy)))
    is_key = jnp.any(component[:, None] == key + 1, axis=1, keepdims=True)
    is_constant = (component == 0)[:, None]
    return _Circuit(
        mean,
        _product(waves, jnp.where(is_constant, heights, 0)),
        _product(waves, jnp.where(is_key, heights, 0)),
        logits[0],
    )


def _by_component(energy: jax.Array, component: np.ndarray) -> jax.Array:
    return jax.ops.segment_sum(energy, component, int(component.max()) + 1)


def _shares(x: jax.Array, total: jax.Array | None = None) -> jax.Array:
    """Of a total, or of their sum; 0 where that is 0."""
    total = jnp.sum(x) if total is None else total
    return jnp.where(total == 0, 0, x / jnp.where(total == 0, 1, total))


@functools.lru_cache(maxsize=8)
def _known_harmonics(translations: Callable[[], np.ndarray]) -> Harmonics:
    return harmonics(translations())


_product = functools.partial(jnp.matmul, precision=jax.lax.Precision.HIGHEST)
