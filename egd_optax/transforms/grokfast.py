"""Grokfast: low-pass filters that amplify the slow part of the gradient."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from egd_optax.arguments import (
    ArgumentError,
    check_flag,
    check_number,
    checked_count,
    shown,
)
from egd_optax.leaves.checks import check_alike, check_floating
from egd_optax.meshes import on_mesh_of
from egd_optax.polar.linear_algebra import at_least_float32, known_dtype


class GrokfastEMAState(NamedTuple):
    """State of :func:`grokfast_ema`."""

    count: jax.Array  # type: ignore[assignment]  # shape=(), dtype=int32
    ema: optax.Updates  # shapes of the parameters, at least float32


class GrokfastMAState(NamedTuple):
    """State of :func:`grokfast_ma`."""

    count: jax.Array  # type: ignore[assignment]  # shape=(), dtype=int32
    queue: optax.Updates  # (window_size, *shape) of each parameter, in its dtype
    mean: optax.Updates  # sum of the queue over its size, at least float32
    fresh: optax.Updates  # the same since the queue was last filled from its start


def grokfast_ema(
    alpha: jax.typing.ArrayLike = 0.98, lamb: jax.typing.ArrayLike = 2.0
) -> optax.GradientTransformationExtraArgs:
    r"""Adds an amplified exponential moving average of the gradient to it.

    .. math::
      m_1 = g_1, \quad m_t = \alpha m_{t-1} + (1 - \alpha) g_t, \quad
      g_t \leftarrow g_t + \lambda m_t.

    Put it first in a chain: the filter sees the raw gradient, weight decay and the
    optimizer come after it. Under plain SGD the effective learning rate grows by up to
    1 + λ; Adam cancels that factor.

    Args:
      alpha: momentum of the average, in [0, 1).
      lamb: factor λ of the average.

    Returns:
      A gradient transformation. The average is kept in at least float32.

    Raises:
      ArgumentError: ``alpha`` is no number in [0, 1), or ``lamb`` no finite number;
        at ``update``, the gradients do not fit the parameters that ``init`` was given;
        a leaf is not floating.

    Example:
      >>> import jax.numpy as jnp
      >>> from egd_optax import grokfast_ema
      >>> tx = grokfast_ema(alpha=0.5, lamb=2.0)
      >>> state = tx.init(jnp.zeros(1))
      >>> updates, state = tx.update(jnp.ones(1), state)
      >>> updates, state = tx.update(jnp.zeros(1), state)
      >>> print(updates)
      [1.]

    Source: Lee et al., *Grokfast: Accelerated Grokking by Amplifying Slow Gradients*,
    arXiv 2405.20233.
    """
    check_number("alpha", alpha, at_least=0, below=1)
    check_number("lamb", lamb)

    def init_fn(params: optax.Params) -> GrokfastEMAState:
        return GrokfastEMAState(jnp.zeros([], jnp.int32), _zeros_like(params))

    def update_fn(
        updates: optax.Updates,
        state: GrokfastEMAState,
        params: optax.Params | None = None,
        **extra_args: Any,
    ) -> tuple[optax.Updates, GrokfastEMAState]:
        del params, extra_args
        check_alike(updates, "the parameters given to init", state.ema)

        def average(m: jax.Array, g: jax.Array) -> jax.Array:
            a = jnp.asarray(alpha, m.dtype)
            g = g.astype(m.dtype)
            return jnp.where(state.count == 0, g, a * m + (1 - a) * g)

        ema = jax.tree.map(average, state.ema, updates)
        updates = _amplify(updates, ema, lamb)
        return updates, GrokfastEMAState(optax.safe_increment(state.count), ema)

    return optax.GradientTransformationExtraArgs(init_fn, update_fn)


def grokfast_ma(
    # inject_hyperparams would trace a plain int, and the size of the queue cannot be
    # traced; a NumPy integer stays static there.
    window_size: int = np.int64(100),  # type: ignore[assignment]
    lamb: jax.typing.ArrayLike = 5.0,
    *,
    filter_type: str = "mean",
    warmup: bool = True,
) -> optax.GradientTransformationExtraArgs:
    r"""Adds the amplified mean (or sum) of the last gradients to the gradient.

    .. math:: g_t \leftarrow g_t + \lambda \cdot
        \tfrac{1}{w} \textstyle\sum_{s = t - w + 1}^{t} g_s

    once ``window_size`` = w gradients have been seen; with ``warmup=False`` from the
    start, over the gradients seen so far. Memory: w copies of the gradients.

    Args:
      window_size: number w of gradients in the queue, the current one included; a
        static integer (name it in ``static_args`` of ``optax.inject_hyperparams``
        where it is given).
      lamb: factor λ of the mean or sum.
      filter_type: ``"mean"`` or ``"sum"``.
      warmup: whether to wait until the queue is full.

    Returns:
      A gradient transformation.

    Raises:
      ArgumentError: ``window_size`` is below one, traced or no integer; ``lamb`` is no
        finite number, ``filter_type`` unknown or ``warmup`` no bool; at ``update``, the
        gradients do not fit the parameters that ``init`` was given; a leaf is not
        floating.

    Example:
      >>> import jax.numpy as jnp
      >>> from egd_optax import grokfast_ma
      >>> tx = grokfast_ma(window_size=2, lamb=1.0)
      >>> state = tx.init(jnp.zeros(1))
      >>> for g in (1.0, 3.0):
      ...     updates, state = tx.update(jnp.array([g]), state)
      ...     print(updates)
      [1.]
      [5.]

    Source: Lee et al., *Grokfast: Accelerated Grokking by Amplifying Slow Gradients*,
    arXiv 2405.20233.
    """
    if filter_type not in ("mean", "sum"):
        raise ArgumentError(
            f"filter_type must be 'mean' or 'sum', got {shown(filter_type)}"
        )
    check_number("lamb", lamb)
    check_flag("warmup", warmup)
    if not isinstance(window_size, jax.core.Tracer):
        checked_count("window_size", window_size)

    def init_fn(params: optax.Params) -> GrokfastMAState:
        size = checked_count("window_size", window_size)
        # Not the same zeros twice: a buffer can be donated only once.
        mean, fresh = _zeros_like(params), _zeros_like(params)
        # Each laid out over the devices as the parameter is.
        queue = jax.tree.map(
            lambda p: jnp.broadcast_to(jnp.zeros_like(p), (size, *p.shape)), params
        )
        return GrokfastMAState(jnp.zeros([], jnp.int32), queue, mean, fresh)

    def update_fn(
        updates: optax.Updates,
        state: GrokfastMAState,
        params: optax.Params | None = None,
        **extra_args: Any,
    ) -> tuple[optax.Updates, GrokfastMAState]:
        del params, extra_args
        check_alike(updates, "the parameters given to init", state.mean)
        leaves = jax.tree.leaves(state.queue)
        if not leaves:
            return updates, state
        size = leaves[0].shape[0]
        slot = state.count % size
        # What is taken off later is what the queue holds, in its dtype.
        latest = jax.tree.map(lambda g, q: g.astype(q.dtype), updates, state.queue)

        # Adding and subtracting for ever would gather rounding errors. A mean begun
        # anew with every round of the queue takes over at its end. The sum of large
        # gradients may be more than the dtype holds.
        mean = jax.tree.map(
            lambda m, q, g: (
                m + g.astype(m.dtype) / size - q[slot].astype(m.dtype) / size
            ),
            state.mean,
            state.queue,
            latest,
        )
        fresh = jax.tree.map(
            lambda m, g: jnp.where(slot == 0, 0, m) + g.astype(m.dtype) / size,
            state.fresh,
            latest,
        )
        mean = jax.tree.map(lambda m, f: jnp.where(slot == size - 1, f, m), mean, fresh)
        queue = jax.tree.map(
            # Not q.at[slot].set(g), whose layout JAX does not know on an explicit mesh.
            lambda q, g: jax.lax.dynamic_update_index_in_dim(
                on_mesh_of(g, q), g, slot, axis=0
            ),
            state.queue,
            latest,
        )

        count = optax.safe_increment(state.count)
        weight = lamb * size
        if filter_type == "mean":
            weight = weight / jnp.minimum(count, size).astype(float)
        if warmup:
            weight = jnp.where(count >= size, weight, 0)
        updates = _amplify(updates, mean, weight)
        return updates, GrokfastMAState(count, queue, mean, fresh)

    return optax.GradientTransformationExtraArgs(init_fn, update_fn)


def _zeros_like(params: optax.Params) -> optax.Updates:
    check_floating("parameter", params)
    return jax.tree.map(
        lambda p: jnp.zeros_like(p, dtype=at_least_float32(p.dtype)), params
    )


def _amplify(
    updates: optax.Updates, slow: optax.Updates, weight: jax.typing.ArrayLike
) -> optax.Updates:
    def amplified(g: jax.Array, s: jax.Array) -> jax.Array:
        wide = g.astype(s.dtype) + jnp.asarray(weight, s.dtype) * s
        return wide.astype(known_dtype(g.dtype))

    return jax.tree.map(amplified, updates, slow)
