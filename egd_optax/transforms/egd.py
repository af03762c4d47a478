"""The ready optimizer: egalitarian gradient descent for matrices, Adam for the rest."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax

from egd_optax.arguments import (
    ArgumentError,
    check_flag,
    check_number,
    check_real_dtype,
    checked_schedule,
    shown,
)
from egd_optax.leaves.checks import Mask, checked_mask, checked_params
from egd_optax.leaves.layouts import (
    WeightDimensionNumbers,
    matrix_layouts,
    told_by_the_whole_tree,
)
from egd_optax.transforms.egalitarian import scale_by_egd
from egd_optax.transforms.precision import in_at_least_float32
from egd_optax.transforms.shape_scaling import scale_by_shape
from egd_optax.transforms.vanished_gradients import apply_unless_vanished, check_share


def egd(
    learning_rate: optax.ScalarOrSchedule,
    *,
    momentum: jax.typing.ArrayLike = 0.5,
    weight_decay: optax.ScalarOrSchedule = 0.07,
    weight_decay_mask: Mask | None = None,
    consistent_rms: jax.typing.ArrayLike | None = None,
    width_scaling: bool = False,
    adam_learning_rate: optax.ScalarOrSchedule = 1e-3,
    adam_weight_decay: optax.ScalarOrSchedule = 0.0,
    vanishing_threshold: jax.typing.ArrayLike | None = None,
    mu_dtype: jax.typing.DTypeLike | None = None,
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
    devices, as in :func:`scale_by_egd`. Arithmetic and states have at least float32,
    whatever the dtype of a leaf; updates have that dtype.

    Of complex weights the polar factor is U Vᴴ, and Adam's second moment the mean of
    \|g\|². As everywhere in optax, gradients are to be the conjugates of what
    ``jax.grad`` gives: the direction in which the loss rises.

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
      learning_rate: η, a number or a schedule: how far each direction moves in a step,
        unless one of the two scalings below is asked for.
      momentum: μ in [0, 1).
      weight_decay: λ, a number or a schedule. Without decay a memorizing solution has
        no reason to leave, and grokking stalls.
      weight_decay_mask: tree of booleans (or a prefix, or a function of the parameters
        that gives one): where either decay applies, as in optax.
      consistent_rms: multiplies the direction by √max(fan_in, fan_out) times this
        number, as in ``optax.contrib.muon``: its entries then have this root mean
        square, whatever the shape. With 0.2, that of Adam's updates, learning rates
        and decays of AdamW serve (Liu et al., arXiv 2502.16982).
      width_scaling: multiplies the direction by √max(1, fan_out / fan_in), the default
        of ``optax.contrib.muon``: a learning rate found for one width then serves a
        wider net, and Muon's serve here.
      adam_learning_rate: learning rate of Adam for leaves that are not matrices.
      adam_weight_decay: decoupled decay of those leaves, scaled with Adam's learning
        rate. Biases that are free help some targets and harm others (a two-layer ReLU
        net without them is a linear function plus an even one); a
        :func:`egd_optax.delayed_onset` lets the first kind be learned before it holds
        them back.
      mu_dtype: dtype of the momentum and of Adam's first moment, for real leaves; None
        takes that of the leaf, at least float32. Adam's second moment has that always:
        in bfloat16 it would stand still where a gradient has become small.
      polar_fn: polar factor of arrays ``(..., m, n)``, at least float32; None takes
        :func:`egd_optax.polar_factor`.
      weight_dimension_numbers: which leaves are matrices, as in :func:`scale_by_egd`.

    Returns:
      A gradient transformation whose ``update`` needs ``params``.

    Raises:
      ArgumentError: a learning rate is neither a finite number nor a schedule, a decay
        neither that, of at least 0, nor a schedule; ``momentum`` or
        ``vanishing_threshold`` is no number in [0, 1); ``weight_decay_mask`` is no
        mask; ``consistent_rms`` is no number above 0, or given beside
        ``width_scaling``, which is no bool; ``mu_dtype`` is no real floating dtype, or
        given for a complex leaf; ``polar_fn`` and dimension numbers as in
        :func:`scale_by_egd`; at ``update``, ``params`` is missing or does not fit the
        gradients or the mask; a leaf is not floating.

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
    check_flag("width_scaling", width_scaling)
    if consistent_rms is not None:
        check_number("consistent_rms", consistent_rms, above=0)
        if width_scaling:
            raise ArgumentError(
                "width_scaling must be False beside consistent_rms, got True"
            )
    check_share("vanishing_threshold", vanishing_threshold)
    if mu_dtype is not None:
        check_real_dtype("mu_dtype", mu_dtype)

    # optax.partition asks for the labels before it masks what is not of a label.
    of_all, of_part = told_by_the_whole_tree(weight_dimension_numbers)

    def partition(
        matrix: optax.GradientTransformation,
        other: optax.GradientTransformation,
        numbers: WeightDimensionNumbers,
    ) -> optax.GradientTransformation:
        def labels(params: optax.Params) -> optax.Params:
            layouts = matrix_layouts(params, numbers)
            names = ["other" if layout is None else "matrix" for layout in layouts]
            return jax.tree.unflatten(jax.tree.structure(params), names)

        return optax.partition({"matrix": matrix, "other": other}, labels)

    whitened = optax.chain(
        optax.trace(momentum, nesterov=True, accumulator_dtype=mu_dtype),
        scale_by_egd(polar_fn, weight_dimension_numbers=of_part),
    )
    if width_scaling or consistent_rms is not None:
        whitened = optax.chain(whitened, scale_by_shape(consistent_rms, of_part))
    directions = partition(whitened, _adam(mu_dtype), of_all)
    decays = partition(
        optax.add_decayed_weights(weight_decay),
        optax.add_decayed_weights(adam_weight_decay),
        of_part,
    )
    if weight_decay_mask is not None:
        # Around both, so that a function meets the whole tree.
        mask = checked_mask("weight_decay_mask", weight_decay_mask)
        decays = optax.masked(decays, mask)
    rates = partition(
        optax.scale_by_learning_rate(learning_rate),
        optax.scale_by_learning_rate(adam_learning_rate),
        of_part,
    )
    # The guard around both, so that one number counts the leaves that rest.
    guarded = apply_unless_vanished(directions, vanishing_threshold)
    tx = in_at_least_float32(optax.chain(guarded, decays, rates))

    def init_fn(params: optax.Params) -> optax.OptState:
        # The cast would drop imaginary parts.
        if mu_dtype is not None and any(map(jnp.iscomplexobj, jax.tree.leaves(params))):
            raise ArgumentError(
                f"mu_dtype must be None for complex parameters, got {shown(mu_dtype)}"
            )
        return tx.init(params)

    def update_fn(
        updates: optax.Updates,
        state: optax.OptState,
        params: optax.Params | None = None,
        **extra_args: Any,
    ) -> tuple[optax.Updates, optax.OptState]:
        params = checked_params(params, "egd", updates)
        return tx.update(updates, state, params, **extra_args)

    return optax.GradientTransformationExtraArgs(init_fn, update_fn)


def _adam(mu_dtype: jax.typing.DTypeLike | None) -> optax.GradientTransformation:
    # A root of exactly zero has no derivative; 1e-37 is nothing beside Adam's eps.
    adam = optax.scale_by_adam(eps_root=1e-37, mu_dtype=mu_dtype)

    def update_fn(
        updates: optax.Updates,
        state: optax.OptState,
        params: optax.Params | None = None,
    ) -> tuple[optax.Updates, optax.OptState]:
        # optax (0.2.8) raises a float to the power of its integer count.
        with jax.numpy_dtype_promotion("standard"):
            return adam.update(updates, state, params)

    return optax.GradientTransformation(adam.init, update_fn)
