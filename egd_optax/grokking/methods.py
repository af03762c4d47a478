"""How each method is put together, of the library and of optax."""

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
import optax
import optax.contrib
from optax.contrib import MuonDimensionNumbers

import egd_optax
from egd_optax.grokking.problems.problem import Problem

# Every matrix of the model, token and position embeddings among them.
all_matrices = functools.partial(
    egd_optax.flax_dimension_numbers, named={"embedding": MuonDimensionNumbers()}
)


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


def egd_paper(problem: Problem) -> optax.GradientTransformation:
    """EGD as released."""
    clamps = problem.family == "modular"
    polar = _polar_with_clamped_singular_values if clamps else egd_optax.polar_by_svd
    return in_front_of_plain(problem, egd_optax.scale_by_egd(polar))


def egd_rsvd(problem: Problem, *, rank: int) -> optax.GradientTransformation:
    """EGD as released, by a randomized SVD."""
    return in_front_of_plain(problem, egd_optax.scale_by_randomized_egd(rank))


def egd(
    problem: Problem,
    *,
    learning_rate: float,
    adam_learning_rate: float,
    halving_steps: int = 100,
    momentum: float = 0.5,
    first_shrinkage: float = 0.07,
    late_bias_decay: float = 0.0,
) -> optax.GradientTransformation:
    """EGD of this package."""
    return egd_optax.egd(
        egd_optax.inverse_time_decay(learning_rate, halving_steps),
        momentum=momentum,
        # What the first step takes off the weights is more alike between problems than
        # the decay itself.
        weight_decay=first_shrinkage / learning_rate,
        adam_learning_rate=egd_optax.inverse_time_decay(
            adam_learning_rate, halving_steps
        ),
        # A parity of an odd number of bits needs biases, one of an even number does not
        # and memorizes with them: the first kind is learned before this sets in.
        adam_weight_decay=egd_optax.delayed_onset(late_bias_decay, 1000),
        weight_dimension_numbers=all_matrices,
    )


def _adam(learning_rate: float) -> optax.GradientTransformation:
    return optax.adam(learning_rate, b1=0.9, b2=0.98)


def adamw(
    problem: Problem, *, learning_rate: float, weight_decay: float
) -> optax.GradientTransformation:
    """AdamW."""
    return optax.adamw(learning_rate, b1=0.9, b2=0.98, weight_decay=weight_decay)


def muon(
    problem: Problem, *, learning_rate: float, weight_decay: float
) -> optax.GradientTransformation:
    """Muon."""
    return optax.contrib.muon(
        learning_rate,
        weight_decay=weight_decay,
        muon_weight_dimension_numbers=all_matrices,
    )


def grokfast_ema(
    problem: Problem,
    *,
    learning_rate: float,
    weight_decay: float,
    alpha: float = 0.98,
    lamb: float = 2.0,
    decoupled: bool = False,
) -> optax.GradientTransformation:
    """Grokfast by moving average, then Adam with coupled L2, or AdamW."""
    after = (
        adamw(problem, learning_rate=learning_rate, weight_decay=weight_decay)
        if decoupled
        else optax.chain(optax.add_decayed_weights(weight_decay), _adam(learning_rate))
    )
    return optax.chain(egd_optax.grokfast_ema(alpha, lamb), after)


def grokfast_ma(
    problem: Problem, *, learning_rate: float, weight_decay: float, window_size: int
) -> optax.GradientTransformation:
    """Grokfast by window, coupled L2, Adam."""
    return optax.chain(
        egd_optax.grokfast_ma(window_size, 5.0),
        optax.add_decayed_weights(weight_decay),
        _adam(learning_rate),
    )


def _once_memorized(
    penalty: optax.GradientTransformation, learning_rate: float
) -> optax.GradientTransformation:
    switch = egd_optax.switch_on_metric(
        "train_accuracy", 0.99, optax.identity(), penalty
    )
    return optax.chain(switch, _adam(learning_rate))


def delayed_frobenius(
    problem: Problem, *, learning_rate: float, strength: float
) -> optax.GradientTransformation:
    """Adam, with a Frobenius penalty once memorized."""
    penalty = egd_optax.delayed_frobenius_penalty(strength)
    return optax.chain(penalty, _adam(learning_rate))


def delayed_nuclear_norm(
    problem: Problem, *, learning_rate: float, strength: float
) -> optax.GradientTransformation:
    """Adam, with a nuclear-norm penalty once memorized."""
    penalty = egd_optax.add_nuclear_norm_penalty(
        strength, weight_dimension_numbers=all_matrices
    )
    return _once_memorized(penalty, learning_rate)


def delayed_log_det(
    problem: Problem, *, learning_rate: float, strength: float
) -> optax.GradientTransformation:
    """Adam, with a log-det penalty once memorized."""
    penalty = egd_optax.add_log_det_penalty(
        strength, eps=1e-2, weight_dimension_numbers=all_matrices
    )
    return _once_memorized(penalty, learning_rate)


def orthogonal_gradient(
    problem: Problem, *, learning_rate: float
) -> optax.GradientTransformation:
    """⊥Grad, then Adam."""
    return optax.chain(egd_optax.orthogonal_gradient(), _adam(learning_rate))


def clipped_rows(
    problem: Problem, *, learning_rate: float, max_norm: float
) -> optax.GradientTransformation:
    """Adam, then clipping of the norm of each unit's weights."""
    clip = egd_optax.clip_weight_row_norms(
        max_norm, weight_dimension_numbers=all_matrices
    )
    return optax.chain(_adam(learning_rate), clip)
