"""Measures of the Fourier circuit that networks learn on groups."""

import functools
from collections.abc import Callable
from typing import NamedTuple

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
        features)`` with as many features; the task is on no group.

    Source: Nanda et al., arXiv 2301.05217; for other groups Chughtai et al., arXiv
    2302.03025.
    """
    share = _shares(jnp.sum(_energies(snapshot, "fourier-share"), axis=1))
    return jnp.sum(jax.lax.top_k(share, min(KEY_COMPONENTS, len(share)))[0])


def fourier_components(snapshot: Snapshot) -> jax.Array:
    r"""Effective number of harmonics of the embedding: exp(−Σ e_k log e_k).

    e_k and errors are those of :func:`fourier_share`.
    """
    return _effective_number(jnp.sum(_energies(snapshot, "fourier-components"), axis=1))


def fourier_share_of_units(snapshot: Snapshot) -> jax.Array:
    r"""How much of each unit's energy lies in its one largest harmonic.

    The mean over the features of the embedding, each weighted by its energy; 1 where
    every unit of a net has a frequency of its own, the same for all symbols that it
    adds up, however many of these there are. Of a transformer's embedding it says
    little: nothing ties what it holds to single features. Errors are those of
    :func:`fourier_share`.

    Source: Gromov, *Grokking modular arithmetic*, arXiv 2301.02679, whose solution has
    such units.
    """
    energies = _energies(snapshot, "fourier-share-of-units")
    return jnp.sum(_shares(jnp.max(energies, axis=0), jnp.sum(energies)))


def answer_share(snapshot: Snapshot) -> jax.Array:
    r"""How much of what varies in the logits of test examples the answer explains.

    With z_i the logits of example i, less their mean over the classes, which no loss
    sees, M_x their mean over the test examples with answer x and μ that over all,

    .. math:: \sum_i \|M_{x_i} - \mu\|^2 \Big/ \sum_i \|z_i - \mu\|^2

    A model that computes the answer and nothing else has 1; what was learned by heart
    has one part in as many as there are test examples of an answer.

    Raises:
      ValueError: the loss of the task is no cross-entropy.
    """
    means = _means_by_answer(snapshot, "answer-share")
    middle = jnp.mean(means.logits, axis=0)
    explained = jnp.sum((means.of_answers - middle) ** 2, axis=1)
    return _shares(
        jnp.sum(means.counts * explained), jnp.sum((means.logits - middle) ** 2)
    )


def logit_components(snapshot: Snapshot) -> jax.Array:
    r"""Effective number of harmonics of M: exp(−Σ e_k log e_k).

    e_k is the share of component k in the energy of M, errors are those of
    :func:`restricted_loss`. It counts those of noise, too, as long as
    :func:`answer_share` is small.
    """
    return _effective_number(_circuit(snapshot, "logit-components").energies)


def restricted_loss(snapshot: Snapshot) -> jax.Array:
    r"""Loss on the test part of the key components of the logits alone.

    M is the mean of the logits over the test examples with one answer, a function on
    the group in each column. Its five components with the most energy are the key ones;
    the logits of an example with answer x are replaced by row x of these and of the
    constant part of M.

    Raises:
      ValueError: the task is on no group, or its loss is no cross-entropy.

    Source: Nanda et al., *Progress measures for grokking via mechanistic
    interpretability*, arXiv 2301.05217. They take all examples, in whose mean answers
    that were learned by heart show as a circuit of all frequencies; and the key
    frequencies from the neurons at the end of training, here they are those of the
    moment.
    """
    circuit = _circuit(snapshot, "restricted-loss")
    answers = jnp.asarray(snapshot.task.labels)[snapshot.split.test]
    losses, _ = LOSSES[snapshot.task.loss](
        (circuit.key + circuit.constant)[answers], answers
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
        snapshot.outputs["train"] - circuit.key[answers], answers
    )
    return jnp.mean(losses)


def key_share(snapshot: Snapshot) -> jax.Array:
    """Share of the key components in the energy of M without its constant part.

    M, errors and source are those of :func:`restricted_loss`.
    """
    circuit = _circuit(snapshot, "key-share")
    return _shares(jnp.sum(circuit.key**2), jnp.sum(circuit.energies))


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
    tables = jnp.stack(read(snapshot.task.symbols))
    energy = jnp.sum(_product(waves.T, tables) ** 2, axis=0)
    return _by_component(energy, component)[1:]


class _Means(NamedTuple):
    """Of the test part, logits less their mean over the classes."""

    logits: jax.Array  # (test examples, classes)
    of_answers: jax.Array  # (answers, classes)
    counts: jax.Array  # (answers,): test examples


def _means_by_answer(snapshot: Snapshot, measure: str) -> _Means:
    task = snapshot.task
    if task.loss != "cross-entropy":
        raise ValueError(
            f"the measure {measure} needs logits, and {task.name} has none"
        )
    logits = snapshot.outputs["test"]
    logits = logits - jnp.mean(logits, axis=1, keepdims=True)
    answers = jnp.asarray(task.labels)[snapshot.split.test]
    totals = jax.ops.segment_sum(logits, answers, task.classes)
    counts = jax.ops.segment_sum(jnp.ones(len(answers)), answers, task.classes)
    return _Means(logits, totals / jnp.maximum(counts, 1)[:, None], counts)


class _Circuit(NamedTuple):
    """M by its components."""

    energies: jax.Array  # of all but the constant one
    constant: jax.Array  # (answers, classes)
    key: jax.Array  # the same of the key components


def _circuit(snapshot: Snapshot, measure: str) -> _Circuit:
    task = snapshot.task
    waves, component = _harmonics(snapshot, measure)
    if task.loss != "cross-entropy" or task.classes != len(waves):
        raise ValueError(
            f"the measure {measure} needs logits on a group, and {task.name} has none"
        )
    heights = _product(waves.T, _means_by_answer(snapshot, measure).of_answers)
    energies = jnp.sum(_by_component(heights**2, component), axis=1)[1:]
    _, key = jax.lax.top_k(energies, min(KEY_COMPONENTS, len(energies)))
    is_key = jnp.any(component[:, None] == key + 1, axis=1, keepdims=True)
    is_constant = (component == 0)[:, None]
    return _Circuit(
        energies,
        _product(waves, jnp.where(is_constant, heights, 0)),
        _product(waves, jnp.where(is_key, heights, 0)),
    )


def _by_component(energy: jax.Array, component: np.ndarray) -> jax.Array:
    return jax.ops.segment_sum(energy, component, int(component.max()) + 1)


def _effective_number(energies: jax.Array) -> jax.Array:
    return jnp.exp(jnp.sum(jax.scipy.special.entr(_shares(energies))))


def _shares(x: jax.Array, total: jax.Array | None = None) -> jax.Array:
    """Of a total, or of their sum; 0 where that is 0."""
    total = jnp.sum(x) if total is None else total
    return jnp.where(total == 0, 0, x / jnp.where(total == 0, 1, total))


@functools.lru_cache(maxsize=8)
def _known_harmonics(translations: Callable[[], np.ndarray]) -> Harmonics:
    return harmonics(translations())


_product = functools.partial(jnp.matmul, precision=jax.lax.Precision.HIGHEST)
