"""Methods as their sources ran them."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import optax

import egd_optax
from egd_optax.grokking.problems.problem import Problem


def _kernels(*parents: str) -> Callable[[optax.Params], optax.Params]:
    """A mask: True for matrices whose path has one of the names; all, if none."""

    def mask(params: optax.Params) -> optax.Params:
        return jax.tree_util.tree_map_with_path(
            lambda path, leaf: (
                leaf.ndim == 2
                and (
                    not parents
                    or any(jax.tree_util.DictKey(name) in path for name in parents)
                )
            ),
            params,
        )

    return mask


# What the EGD paper transforms: the hidden layer of the two-layer net, all of MNIST's
# layers, the transformer's MLPs.
_TRANSFORMED = {
    "modular": _kernels("hidden"),
    "parity": _kernels("hidden"),
    "mnist": _kernels(),
    "transformer": _kernels("up", "down"),
}


def _plain(problem: Problem) -> optax.GradientTransformation:
    """The source's optimizer for the problem, behind its L2 term."""
    if problem.family in ("modular", "parity"):
        return optax.sgd(problem.learning_rate)
    return optax.adam(problem.learning_rate, b2=0.98)


def in_front_of_plain(
    problem: Problem, transform: optax.GradientTransformation
) -> optax.GradientTransformation:
    """The EGD paper's code: L2 term inside of the loss, some matrices transformed."""
    return optax.chain(
        optax.add_decayed_weights(problem.weight_decay, mask=_kernels()),
        optax.masked(transform, _TRANSFORMED[problem.family]),
        _plain(problem),
    )


def _polar_with_clamped_singular_values(x: jax.Array) -> jax.Array:
    # As the release whitens modular gradients: singular values below 1e-6 are divided
    # by 1e-6, not by themselves.
    u, s, vt = jnp.linalg.svd(x, full_matrices=False)
    return jnp.matmul(u * (s / jnp.maximum(s, 1e-6))[..., None, :], vt)


def egd(problem: Problem) -> optax.GradientTransformation:
    """EGD as released."""
    clamps = problem.family == "modular"
    polar = _polar_with_clamped_singular_values if clamps else egd_optax.polar_by_svd
    return in_front_of_plain(problem, egd_optax.scale_by_egd(polar))


def egd_rsvd(problem: Problem, *, rank: int) -> optax.GradientTransformation:
    """EGD as released, by a randomized SVD."""
    return in_front_of_plain(problem, egd_optax.scale_by_randomized_egd(rank))


def adamw(
    problem: Problem, *, weight_decay: float, warmup_steps: int
) -> optax.GradientTransformation:
    """AdamW, its rate warmed up over the first updates."""
    rate = optax.linear_schedule(
        problem.learning_rate / warmup_steps, problem.learning_rate, warmup_steps - 1
    )
    return optax.adamw(rate, b2=0.98, weight_decay=weight_decay)


def grokfast_ema(
    problem: Problem,
    *,
    weight_decay: float,
    alpha: float,
    lamb: float,
    decoupled: bool = False,
) -> optax.GradientTransformation:
    """Grokfast by moving average, then Adam with coupled L2, or AdamW."""
    after = (
        optax.adamw(problem.learning_rate, b2=0.98, weight_decay=weight_decay)
        if decoupled
        else optax.chain(optax.add_decayed_weights(weight_decay), _plain(problem))
    )
    return optax.chain(egd_optax.grokfast_ema(alpha, lamb), after)


def grokfast_ma(
    problem: Problem, *, weight_decay: float, window_size: int, lamb: float
) -> optax.GradientTransformation:
    """Grokfast by window, coupled L2, Adam."""
    return optax.chain(
        egd_optax.grokfast_ma(window_size, lamb),
        optax.add_decayed_weights(weight_decay),
        _plain(problem),
    )


def delayed_frobenius(
    problem: Problem, *, strength: float, threshold: float
) -> optax.GradientTransformation:
    """Adam, with a Frobenius penalty once memorized."""
    penalty = egd_optax.delayed_frobenius_penalty(strength, threshold=threshold)
    return optax.chain(penalty, _plain(problem))


def clipped_rows(
    problem: Problem, *, learning_rate: float, b2: float, max_norm: float
) -> optax.GradientTransformation:
    """Lion, then clipping of the norm of each unit's weights, embeddings left out."""
    return optax.chain(
        optax.lion(learning_rate, b2=b2, weight_decay=0.0),
        egd_optax.clip_weight_row_norms(
            max_norm, weight_dimension_numbers=egd_optax.flax_dimension_numbers
        ),
    )
