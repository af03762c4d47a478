"""Egalitarian gradient descent: every matrix of the gradient is whitened."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from egd_optax.arguments import check_number, checked_schedule, checked_whitening
from egd_optax.leaves.checks import check_dimension_numbers, checked_params
from egd_optax.leaves.mapping import (
    WeightDimensionNumbers,
    map_and_count,
    matrix_layouts,
)
from egd_optax.leaves.sharding import keep_shardings, spread_over_devices
from egd_optax.polar.eigh import polar_and_failures, polar_by_eigh
from egd_optax.transforms.vanished_gradients import apply_unless_vanished, check_share


class ScaleByEGDState(NamedTuple):
    """State of :func:`scale_by_egd`."""

    # How many matrices so far the eigendecomposition failed for, and another way was
    # taken; zero for a polar_fn of the user's.
    fallbacks: jax.Array  # shape=(), dtype=int32


def scale_by_egd(
    polar_fn: Callable[[jax.Array], jax.Array] | None = None,
    *,
    weight_dimension_numbers: WeightDimensionNumbers = None,
) -> optax.GradientTransformationExtraArgs:
    r"""Whitens the gradient of every matrix, so that all directions move equally fast.

    .. math:: G = U S V^\top \;\mapsto\; (G G^\top)^{-1/2} G = U V^\top

    with the pseudo-inverse where G is rank-deficient. Whether rows or columns are
    inputs does not matter. Matrices of the same shape and dtype are stacked over the
    whole tree and whitened in one call; other leaves pass through.

    Gradients that lie on a mesh (``jax.sharding.NamedSharding``, whatever the layout)
    are whitened by all of its devices: each takes whole matrices of a stack, alone, and
    the results come back in the sharding of the gradients. One reshard there and one
    back for each shape, no communication in between. Nothing has to be said for that.

    Order is meaning: ``add_decayed_weights`` before this transformation is whitened
    together with the gradient (as in the paper), after it it is a decoupled decay.
    The result has spectral norm one whatever the gradient's size, so a schedule of
    the learning rate alone says how far a step goes. That is so for the rounding errors
    of a vanishing gradient, too, unless :func:`egd_optax.apply_unless_vanished` is put
    around.

    Args:
      polar_fn: polar factor of arrays ``(..., m, n)``; None takes
        :func:`egd_optax.polar_by_eigh`.
      weight_dimension_numbers: a tree (or a prefix of one) of
        ``optax.contrib.MuonDimensionNumbers``, or a function from the tree of updates
        to one, that says which axes of a leaf are input (reduction) and output; axes
        it does not name are batch axes, and None skips the leaf. None for all takes
        each leaf with two axes as one matrix, in Flax's (fan_in, fan_out) layout.

    Returns:
      A gradient transformation. Updates keep shape and dtype. Its state counts the
      eigendecompositions that did not converge and were replaced by
      :func:`egd_optax.polar_by_newton_schulz` (``optax.tree.get(state, "fallbacks")``);
      on a mesh that is one number that all devices add up, where it is used.

    Raises:
      ArgumentError: ``polar_fn`` is no function that keeps shapes; dimension numbers
        are none or, at ``update``, do not fit a leaf; a matrix of integers.

    Example:
      >>> import jax.numpy as jnp, optax
      >>> from egd_optax import scale_by_egd
      >>> tx = optax.chain(scale_by_egd(), optax.scale_by_learning_rate(0.1))
      >>> params = {"kernel": jnp.zeros((2, 2)), "bias": jnp.zeros(2)}
      >>> grads = {"kernel": jnp.diag(jnp.array([100.0, 0.01])), "bias": jnp.ones(2)}
      >>> updates, state = tx.update(grads, tx.init(params), params)
      >>> print(-jnp.diagonal(updates["kernel"]), -updates["bias"])
      [0.1 0.1] [0.1 0.1]

    Source: Saheb Pasand and Dohmatob, *Egalitarian Gradient Descent: A Simple Approach
    to Accelerated Grokking*, arXiv 2510.04930.
    """
    check_dimension_numbers(weight_dimension_numbers)
    given = None if polar_fn is None else checked_whitening(polar_fn)

    def with_failures(stack: jax.Array) -> tuple[jax.Array, jax.Array]:
        if given is None or polar_fn is polar_by_eigh:
            return polar_and_failures(stack)
        return given(stack), jnp.zeros(len(stack), bool)

    whiten = spread_over_devices(with_failures)

    def init_fn(params: optax.Params) -> ScaleByEGDState:
        del params
        return ScaleByEGDState(jnp.zeros([], jnp.int32))

    def update_fn(
        updates: optax.Updates,
        state: ScaleByEGDState,
        params: optax.Params | None = None,
        **extra_args: Any,
    ) -> tuple[optax.Updates, ScaleByEGDState]:
        del params, extra_args

        def whiten_all(updates: optax.Updates) -> tuple[optax.Updates, jax.Array]:
            return map_and_count(whiten, updates, weight_dimension_numbers)

        updates, failures = keep_shardings(whiten_all, updates)
        return updates, ScaleByEGDState(state.fallbacks + failures)

    return optax.GradientTransformationExtraArgs(init_fn, update_fn)


def egd(
    learning_rate: optax.ScalarOrSchedule,
    *,
    momentum: jax.typing.ArrayLike = 0.5,
    weight_decay: optax.ScalarOrSchedule = 0.07,
    adam_learning_rate: optax.ScalarOrSchedule = 1e-3,
    adam_weight_decay: optax.ScalarOrSchedule = 0.0,
    vanishing_threshold: jax.typing.ArrayLike | None = None,
    polar_fn: Callable[[jax.Array], jax.Array] | None = None,
    weight_dimension_numbers: WeightDimensionNumbers = None,
) -> optax.GradientTransformationExtraArgs:
    r"""Egalitarian gradient descent for matrices, Adam for all other parameters.

    .. math::
      M_t &= \mu M_{t-1} + G_t \\
      W_t &= W_{t-1} - \eta \, (\operatorname{polar}(G_t + \mu M_t) + \lambda W_{t-1})

    Nesterov momentum comes before the whitening, the decay after it (decoupled, and
    scaled with the learning rate). Vectors and scalars take ``optax.adamw`` with a
    learning rate and a decay of its own. On a mesh the whitening is shared out over the
    devices, as in :func:`scale_by_egd`.

    A step moves every direction of a matrix by ``learning_rate``, at the end of
    training as at the start, so the learning rate has to fall, and it is larger than
    for Adam: η₀ / (1 + t / τ), :func:`egd_optax.inverse_time_decay`, with τ = 100 and

    - η₀ = 1 and λ = 0.07 for two-layer nets on one-hots, batches of 512;
    - η₀ = 0.1, τ = 300, λ = 0.35, μ = 0.95 for two-layer nets on dense inputs, batches
      of 32, the learning rate of the biases the same, their decay 0.7 from step 1000;
    - η₀ = 0.05 to 0.1 and λ = 0.7 to 1.4 for deeper nets whose weights start too large;
    - η₀ = 0.05, τ = 150, λ = 0.5, μ = 0.9 for transformers (residual connections and
      LayerNorm) on batches of 512, their embeddings whitened too, Adam's learning rate
      1e-3.

    The product η₀ λ is the share of the weights that the first step takes off; it is
    more alike between problems (0.025 to 0.07) than either factor. The momentum before
    the whitening has to average the noise away, as noise is whitened too: 0.95 served
    batches of 32; batches of 512 took 0.5 in the two-layer nets, 0.9 in transformers.

    These were chosen on development problems that no reported result uses: modular
    arithmetic mod 83, 101 and 131, parities with (n, k) = (90, 3), (100, 2), (48, 4),
    transformers mod 83, MNIST by a validation part (tables
    ``development-*.csv`` in the repository).

    Args:
      learning_rate: η, a number or a schedule.
      momentum: μ in [0, 1).
      weight_decay: λ, a number or a schedule. Without decay a memorizing solution has
        no reason to leave, and grokking stalls.
      adam_learning_rate: learning rate of Adam for leaves that are not matrices.
      adam_weight_decay: decoupled decay of those leaves, scaled with Adam's learning
        rate. Biases that are free help some targets and harm others (a two-layer ReLU
        net without them is a linear function plus an even one); a
        :func:`egd_optax.delayed_onset` lets the first kind be learned before it holds
        them back.
      polar_fn: polar factor of arrays ``(..., m, n)``; None takes
        :func:`egd_optax.polar_by_eigh`.
      weight_dimension_numbers: which leaves are matrices, as in :func:`scale_by_egd`.

    Returns:
      A gradient transformation whose ``update`` needs ``params``.

    Raises:
      ArgumentError: a learning rate is neither a finite number nor a schedule, a decay
        neither that, of at least 0, nor a schedule; ``momentum`` or
        ``vanishing_threshold`` is no number in [0, 1); ``polar_fn`` and dimension
        numbers as in :func:`scale_by_egd`; at ``update``, ``params`` is missing or does
        not fit the gradients; a leaf is not floating.

    Example:
      >>> import jax, jax.numpy as jnp, optax
      >>> from egd_optax import egd
      >>> params = {"kernel": jnp.ones((3, 2)), "bias": jnp.ones(2)}
      >>> loss = lambda p: jnp.sum((p["kernel"] - 2) ** 2) + jnp.sum(p["bias"] ** 2)
      >>> tx = egd(learning_rate=0.02, adam_learning_rate=0.02)
      >>> state = tx.init(params)
      >>> for _ in range(200):
      ...     updates, state = tx.update(jax.grad(loss)(params), state, params)
      ...     params = optax.apply_updates(params, updates)
      >>> bool(loss(params) < 0.01)
      True

    Source: Saheb Pasand and Dohmatob, *Egalitarian Gradient Descent*, arXiv
    2510.04930, for the whitening; momentum, decoupled decay and AdamW for the rest
    are this package's.
    """
    # Negative rates climb. A negative decay would be a sign mistaken.
    learning_rate = checked_schedule("learning_rate", learning_rate)
    weight_decay = checked_schedule("weight_decay", weight_decay, at_least=0)
    adam_learning_rate = checked_schedule("adam_learning_rate", adam_learning_rate)
    adam_weight_decay = checked_schedule(
        "adam_weight_decay", adam_weight_decay, at_least=0
    )
    check_number("momentum", momentum, at_least=0, below=1)
    check_share("vanishing_threshold", vanishing_threshold)

    def labels(params: optax.Params) -> optax.Params:
        layouts = matrix_layouts(params, weight_dimension_numbers)
        names = ["other" if layout is None else "matrix" for layout in layouts]
        return jax.tree.unflatten(jax.tree.structure(params), names)

    def descent(
        direction: optax.GradientTransformation,
        learning_rate: optax.ScalarOrSchedule,
        weight_decay: optax.ScalarOrSchedule,
    ) -> optax.GradientTransformation:
        return optax.chain(
            apply_unless_vanished(direction, vanishing_threshold),
            optax.add_decayed_weights(weight_decay),
            optax.scale_by_learning_rate(learning_rate),
        )

    whitened = optax.chain(
        optax.trace(momentum, nesterov=True),
        scale_by_egd(polar_fn, weight_dimension_numbers=weight_dimension_numbers),
    )
    tx = optax.partition(
        {
            "matrix": descent(whitened, learning_rate, weight_decay),
            "other": descent(
                optax.scale_by_adam(), adam_learning_rate, adam_weight_decay
            ),
        },
        labels,
    )

    def update_fn(
        updates: optax.Updates,
        state: optax.OptState,
        params: optax.Params | None = None,
        **extra_args: Any,
    ) -> tuple[optax.Updates, optax.OptState]:
        params = checked_params(params, "egd", updates)
        return tx.update(updates, state, params, **extra_args)

    return optax.GradientTransformationExtraArgs(tx.init, update_fn)
