"""What happens inside of a network while it groks: measures of the literature.

Each takes a :class:`~egd_optax.grokking.training.snapshots.Snapshot` and gives a number
or several by name; :func:`~egd_optax.grokking.training.run.train` evaluates those that
it is given beside accuracy, inside the compiled program. A measure of one's own is such
a function.
"""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import optax

import egd_optax
from egd_optax.grokking import fourier
from egd_optax.grokking.training.snapshots import Measure, Snapshot

Scalars = dict[str, jax.Array]


def weight_norm(snapshot: Snapshot) -> Scalars:
    r"""Frobenius norm of every leaf of the parameters, and ``all`` of them together.

    .. math:: \|W\|_F = \Big(\sum_{ij} W_{ij}^2\Big)^{1/2}

    Source: Liu et al., *Omnigrok*, arXiv 2210.01117.
    """
    norms = {name: jnp.linalg.norm(x) for name, x in _leaves(snapshot.params).items()}
    return norms | {"all": _norm(snapshot.params)}


def distance(snapshot: Snapshot) -> jax.Array:
    r"""How far all parameters are from their start, :math:`\|\theta - \theta_0\|_2`."""
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
    read = snapshot.method("pre_activations", "dead-units")
    layers = read(snapshot.inputs[snapshot.split.train])
    dead = [jnp.all(x <= 0, axis=tuple(range(x.ndim - 1))) for x in layers]
    return jnp.mean(jnp.concatenate(dead), dtype=jnp.float32)


MEASURES: dict[str, Measure] = {
    "weight-norm": weight_norm,
    "distance": distance,
    "effective-rank": effective_rank,
    "condition-number": condition_number,
    "alignment": alignment,
    "dead-units": dead_units,
    "fourier-share": fourier.fourier_share,
    "fourier-components": fourier.fourier_components,
    "fourier-share-of-units": fourier.fourier_share_of_units,
    "answer-share": fourier.answer_share,
    "logit-components": fourier.logit_components,
    "restricted-loss": fourier.restricted_loss,
    "excluded-loss": fourier.excluded_loss,
    "key-share": fourier.key_share,
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
    return egd_optax.flax_dimension_numbers(
        params, named={"embedding": optax.contrib.MuonDimensionNumbers()}
    )


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
