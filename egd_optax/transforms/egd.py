"""The ready optimizer: egalitarian gradient descent for matrices, Adam for the rest."""

import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax

from egd_optax.arguments import (
    ArgumentError,
    check_flag,
    check_number,
    checked_dtype,
    checked_schedule,
    shown,
)
from egd_optax.leaves.checks import Mask, checked_mask, checked_params
from egd_optax.leaves.layouts import (
    WeightDimensionNumbers,
    matrix_layouts,
    told_by_the_whole_tree,
)
from egd_optax.transforms.automatic import (
    decay_into_balls,
    pull_to_start,
    with_automatic_rates,
)
from egd_optax.transforms.egalitarian import scale_by_egd
from egd_optax.transforms.precision import in_at_least_float32
from egd_optax.transforms.shape_scaling import scale_by_shape
from egd_optax.transforms.vanished_gradients import apply_unless_vanished, check_share


def egd(
    learning_rate: optax.ScalarOrSchedule | None = None,
    *,
    momentum: jax.typing.ArrayLike = 0.8,
    weight_decay: optax.ScalarOrSchedule | None = None,
    weight_decay_mask: Mask | None = None,
    consistent_rms: jax.typing.ArrayLike | None = None,
    width_scaling: bool = False,
    adam_learning_rate: optax.ScalarOrSchedule | None = None,
    adam_weight_decay: optax.ScalarOrSchedule | None = None,
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

    **Nothing has to be set.** Without a learning rate a step goes the share s of the
    way to the edge of a ball of the spectral norm (a step of the conditional gradient
    method, Frank–Wolfe's, in the direction that momentum and whitening give):

    .. math::
      s_t = \frac{1}{12 \sqrt{L} + A_t}, \qquad
      R = 5 \sqrt{\max(1, d_\text{out} / d_\text{in})}, \qquad
      \eta = s R, \qquad \lambda = 1 / R

    with L the number of matrices in the tree. A grows by a tenth in a step, so that s
    falls as 1 / t and noise is averaged away; not where steps lead one way, and sooner
    where they go back and forth:

    .. math::
      A_t &= A_{t-1} + \tfrac{1}{10} \max(0, \min(1, 1 - 20 c_t))
        + 7 \min(1, t / 100) \max(0, -c_t - 0.2) \\
      c_t &= 0.9 \, c_{t-1} + 0.1 \cos(G_t, M_{t-1})

    with the cosine's mean over all matrices. Vectors take Adam at 0.6 s, and from step
    1000 on are drawn back to where they began, by 0.3 s. No singular value that
    starts within R leaves it, larger ones shrink to it (Chen, Li and Liu, arXiv
    2506.15054), which is as regularizing as decay is elsewhere: a regression whose
    solution lies outside of the ball needs a learning rate and a decay of its own. The
    same constants serve two-layer nets on one-hots and on parities, MNIST and
    transformers; what they cost beside settings found for each is in
    ``docs/tuning.md``. ``optax.tree.get(state, "share")`` is s of the last step, and
    "cosine" and "age" are c and A (all in "AutomaticRatesState", if parameters
    have such names).

    With a learning rate of one's own, it has to fall: a step moves every direction of a
    matrix by it, at the end of training as at the start
    (:func:`egd_optax.inverse_time_decay`). Decay and momentum stay as above; vectors
    take Adam at 1e-3, without decay.

    Args:
      learning_rate: η, a number or a schedule: how far each direction moves in a step,
        unless one of the two scalings below is asked for; None: s R.
      momentum: μ in [0, 1). It has to average the noise away, as noise is whitened,
        too: the smaller the batch, the nearer to 1.
      weight_decay: λ, a number or a schedule; None: 1 / R, times the factor of a
        scaling, so that singular values stay within R at any rate. Without decay a
        memorizing solution has no reason to leave, and grokking stalls.
      weight_decay_mask: tree of booleans (or a prefix, or a function of the parameters
        that gives one): where either decay applies, as in optax.
      consistent_rms: multiplies the direction by √max(fan_in, fan_out) times this
        number, as in ``optax.contrib.muon``: its entries then have this root mean
        square, whatever the shape. With 0.2, that of Adam's updates, learning rates
        and decays of AdamW serve (Liu et al., arXiv 2502.16982).
      width_scaling: multiplies the direction by √max(1, fan_out / fan_in), the default
        of ``optax.contrib.muon``: a learning rate found for one width then serves a
        wider net, and Muon's serve here.
      adam_learning_rate: learning rate of Adam for leaves that are not matrices; None:
        0.6 s without a learning rate, else 1e-3.
      adam_weight_decay: decoupled decay of those leaves, scaled with Adam's learning
        rate; None: the pull to where they began where that rate is 0.6 s, else 0.
      mu_dtype: dtype of the momentum and of Adam's first moment, for real leaves; None
        takes that of the leaf, at least float32. Adam's second moment has that always:
        in bfloat16 it would stand still where a gradient has become small.
      polar_fn: polar factor of arrays ``(..., m, n)``, at least float32; None takes
        :func:`egd_optax.polar_factor`.
      weight_dimension_numbers: which leaves are matrices, as in :func:`scale_by_egd`.

    Returns:
      A gradient transformation whose ``update`` needs ``params``.

    Raises:
      ArgumentError: a learning rate is neither a finite number nor a schedule nor None,
        a decay neither that, of at least 0, nor a schedule nor None; a scaling is asked
        for without a learning rate; ``momentum`` or
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
      >>> loss = lambda p: jnp.sum((p["kernel"] - 0.5) ** 2) + jnp.sum(p["bias"] ** 2)
      >>> tx = egd()
      >>> state = tx.init(params)
      >>> for _ in range(300):
      ...     updates, state = tx.update(jax.grad(loss)(params), state, params)
      ...     params = optax.apply_updates(params, updates)
      >>> bool(loss(params) < 0.01)
      True

    Source: Saheb Pasand and Dohmatob, *Egalitarian Gradient Descent*, arXiv
    2510.04930, for the whitening; momentum, decoupled decay and AdamW for the rest
    are this package's. Steps to the edge of a ball of the spectral norm: Pethick et
    al., *Training Deep Learning Models with Norm-Constrained LMOs*, arXiv 2502.07529;
    the cosine that shortens the steps is after Pflug's statistic (Monatshefte für
    Mathematik 110, 1990; Chee and Toulis, arXiv 1710.06382); the share and its fall are
    this package's.
    """
    # Negative rates climb. A negative decay would be a sign mistaken.
    automatic = learning_rate is None
    learning_rate = _checked("learning_rate", learning_rate)
    weight_decay = _checked("weight_decay", weight_decay, at_least=0)
    adam_learning_rate = _checked("adam_learning_rate", adam_learning_rate)
    adam_weight_decay = _checked("adam_weight_decay", adam_weight_decay, at_least=0)
    check_number("momentum", momentum, at_least=0, below=1)
    check_flag("width_scaling", width_scaling)
    if consistent_rms is not None:
        check_number("consistent_rms", consistent_rms, above=0)
        if width_scaling:
            raise ArgumentError(
                "width_scaling must be False beside consistent_rms, got True"
            )
    if automatic and (width_scaling or consistent_rms is not None):
        name = "width_scaling" if width_scaling else "consistent_rms"
        raise ArgumentError(
            f"{name} needs a learning_rate to scale, got learning_rate=None"
        )
    check_share("vanishing_threshold", vanishing_threshold)
    if mu_dtype is not None:
        checked_dtype("mu_dtype", mu_dtype, jnp.floating, "a real floating dtype")

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
    if weight_decay is None:
        decay = decay_into_balls(consistent_rms, width_scaling, of_part)
    else:
        decay = optax.add_decayed_weights(weight_decay)
    if adam_weight_decay is None and automatic and adam_learning_rate is None:
        vector_decay = pull_to_start()
    else:
        vector_decay = optax.add_decayed_weights(
            0.0 if adam_weight_decay is None else adam_weight_decay
        )
    decays = partition(decay, vector_decay, of_part)
    if weight_decay_mask is not None:
        # Around both, so that a function meets the whole tree.
        mask = checked_mask("weight_decay_mask", weight_decay_mask)
        decays = optax.masked(decays, mask)
    # The guard around both, so that one number counts the leaves that rest.
    guarded = apply_unless_vanished(directions, vanishing_threshold)
    decayed = optax.chain(guarded, decays)
    if learning_rate is None:
        tx = with_automatic_rates(decayed, adam_learning_rate, of_all)
    else:
        vector_rate = 1e-3 if adam_learning_rate is None else adam_learning_rate
        rates = partition(
            optax.scale_by_learning_rate(learning_rate),
            optax.scale_by_learning_rate(vector_rate),
            of_part,
        )
        tx = optax.chain(decayed, rates)
    tx = in_at_least_float32(tx)

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


def _checked(
    name: str, value: optax.ScalarOrSchedule | None, *, at_least: float = -math.inf
) -> optax.ScalarOrSchedule | None:
    return None if value is None else checked_schedule(name, value, at_least=at_least)


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
