"""Methods whose settings a search finds: numbers that may all be traced."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
import optax.contrib
from optax.contrib import MuonDimensionNumbers

import egd_optax
from egd_optax.grokking.methods import directions
from egd_optax.grokking.methods.directions import Direction
from egd_optax.grokking.methods.matrices import with_matrices_apart
from egd_optax.grokking.methods.window import grokfast_of_any_window

Number = jax.typing.ArrayLike


class Shared(NamedTuple):
    """What every method has, and is searched alike."""

    learning_rate: Number  # η₀ of matrices
    halving_steps: Number = jnp.inf  # τ of η₀ / (1 + t / τ); infinite: constant
    momentum: Number = 0.9  # β of the first moment
    shrinkage: Number = 0.0  # η₀ λ: share of the matrices that the first step takes off
    coupled_decay: Number = 0.0  # of the matrices, added to the gradient
    vector_learning_rate: Number = 1e-3  # of Adam for vectors, with the same τ
    vector_shrinkage: Number = 0.0  # the same share of vectors
    vector_decay_onset: Number = 0.0  # step from which vectors decay
    biases_as_rows: Number = 0  # 1: whatever matrices get, biases get with theirs

    @property
    def rate(self) -> optax.Schedule:
        return egd_optax.inverse_time_decay(self.learning_rate, self.halving_steps)

    @property
    def vector_rate(self) -> optax.Schedule:
        rate = self.vector_learning_rate
        return egd_optax.inverse_time_decay(rate, self.halving_steps)

    @property
    def decay(self) -> Number:
        return self.shrinkage / self.learning_rate

    @property
    def vector_decay(self) -> optax.Schedule:
        strength = self.vector_shrinkage / self.vector_learning_rate
        return egd_optax.delayed_onset(strength, self.vector_decay_onset)


def _whole(
    inner: optax.GradientTransformation,
    shared: Shared,
    front: optax.GradientTransformation | None = None,
    last: optax.GradientTransformation | None = None,
) -> optax.GradientTransformation:
    """An optimizer of matrices and vectors, behind the decay that it is to see."""
    parts = [front] if front is not None else []
    parts.append(optax.add_decayed_weights(shared.coupled_decay, mask=_matrices))
    parts.append(inner)
    if last is not None:
        parts.append(last)
    return with_matrices_apart(optax.chain(*parts), shared.biases_as_rows)


def _matrices(params: optax.Params) -> optax.Params:
    return jax.tree.map(lambda leaf: leaf.ndim == 2, params)


def egd(direction: Direction | None = None, **shared: Number) -> Any:
    """:func:`egd_optax.egd`, its direction the polar factor or another one."""
    s = Shared(**shared)
    inner = egd_optax.egd(
        s.rate,
        momentum=s.momentum,
        weight_decay=s.decay,
        adam_learning_rate=s.vector_rate,
        adam_weight_decay=s.vector_decay,
        polar_fn=direction,
    )
    return _whole(inner, s)


def randomized_egd(*, rank: Number, **shared: Number) -> Any:
    """The same with the leading directions alone."""
    return egd(directions.randomized(rank), **shared)


def muon(**shared: Number) -> Any:
    """``optax.contrib.muon``."""
    s = Shared(**shared)
    inner = optax.contrib.muon(
        s.rate,
        beta=s.momentum,
        weight_decay=s.decay,
        adam_learning_rate=s.vector_rate,
        adam_weight_decay=s.vector_decay,
    )
    return _whole(inner, s)


def _elementwise(
    rule: optax.GradientTransformation,
    s: Shared,
    front: optax.GradientTransformation | None = None,
    last: optax.GradientTransformation | None = None,
) -> Any:
    """A rule for matrices, Adam for vectors; decay and rates as :func:`egd` has."""

    def each(
        matrix: optax.GradientTransformation, vector: optax.GradientTransformation
    ) -> optax.GradientTransformation:
        label = lambda leaf: "matrix" if leaf.ndim == 2 else "vector"  # noqa: E731
        return optax.partition(
            {"matrix": matrix, "vector": vector},
            lambda params: jax.tree.map(label, params),
        )

    inner = optax.chain(
        each(rule, optax.scale_by_adam()),
        each(
            optax.add_decayed_weights(s.decay),
            optax.add_decayed_weights(s.vector_decay),
        ),
        each(
            optax.scale_by_learning_rate(s.rate),
            optax.scale_by_learning_rate(s.vector_rate),
        ),
    )
    return _whole(inner, s, front, last)


def _adam(s: Shared, second_momentum: Number) -> optax.GradientTransformation:
    return optax.scale_by_adam(b1=s.momentum, b2=second_momentum)


def adamw(
    front: optax.GradientTransformation | None = None,
    *,
    second_momentum: Number = 0.98,
    **shared: Number,
) -> Any:
    """AdamW, or Adam with coupled decay, behind what a method does to gradients."""
    s = Shared(**shared)
    return _elementwise(_adam(s, second_momentum), s, front)


def lion(*, second_momentum: Number = 0.99, **shared: Number) -> Any:
    """Lion."""
    s = Shared(**shared)
    return _elementwise(optax.scale_by_lion(b1=s.momentum, b2=second_momentum), s)


def grokfast_ema(*, alpha: Number = 0.98, lamb: Number = 2.0, **others: Number) -> Any:
    """Grokfast by moving average, then AdamW."""
    return adamw(egd_optax.grokfast_ema(alpha, lamb), **others)


def grokfast_ma(
    *, window_size: jax.Array | int = 100, lamb: Number = 5.0, **others: Number
) -> Any:
    """Grokfast by window, then AdamW."""
    if isinstance(window_size, jax.core.Tracer):
        return adamw(grokfast_of_any_window(window_size, lamb, at_most=100), **others)
    # A queue of the window's own length, as a user has it: less memory to move.
    return adamw(egd_optax.grokfast_ma(int(window_size), lamb), **others)


def orthogonal_gradient(**others: Number) -> Any:
    """⊥Grad, then AdamW."""
    return adamw(egd_optax.orthogonal_gradient(), **others)


def _once_memorized(
    penalty: optax.GradientTransformation,
    *,
    threshold: Number = 0.99,
    **others: Number,
) -> Any:
    front = egd_optax.switch_on_metric(
        "train_accuracy", threshold, optax.identity(), penalty
    )
    return adamw(front, **others)


def delayed_frobenius(*, strength: Number = 0.01, **others: Number) -> Any:
    """AdamW, with a Frobenius penalty once memorized."""
    return _once_memorized(egd_optax.add_frobenius_penalty(strength), **others)


def delayed_nuclear_norm(*, strength: Number = 0.01, **others: Number) -> Any:
    """AdamW, with a nuclear-norm penalty once memorized."""
    return _once_memorized(egd_optax.add_nuclear_norm_penalty(strength), **others)


def delayed_log_det(
    *, strength: Number = 0.01, eps: Number = 1e-2, **others: Number
) -> Any:
    """AdamW, with a log-det penalty once memorized."""
    return _once_memorized(egd_optax.add_log_det_penalty(strength, eps=eps), **others)


def clipped_rows(
    *,
    max_norm: Number = 2.0,
    by_lion: Number = 0,
    second_momentum: Number = 0.98,
    **shared: Number,
) -> Any:
    """AdamW, or Lion where ``by_lion`` is 1, then units' weights clipped in norm."""
    s = Shared(**shared)
    adam = _adam(s, second_momentum)
    signs = optax.scale_by_lion(b1=s.momentum, b2=second_momentum)
    rule = _either(by_lion, signs, adam)
    clip = egd_optax.clip_weight_row_norms(
        max_norm, weight_dimension_numbers=_matrices_but_embeddings
    )
    return _elementwise(rule, s, last=clip)


def _matrices_but_embeddings(params: optax.Params) -> optax.Params:
    # As the source has it: a token's row is no unit's incoming weights.
    return jax.tree_util.tree_map_with_path(
        lambda path, leaf: (
            MuonDimensionNumbers()
            if leaf.ndim == 2 and "embedding" not in jax.tree_util.keystr(path)
            else None
        ),
        params,
    )


def _either(
    flag: Number,
    first: optax.GradientTransformation,
    second: optax.GradientTransformation,
) -> optax.GradientTransformation:
    """The updates of the first where the flag is 1, of the second where it is 0."""
    if not isinstance(flag, jax.core.Tracer):
        return first if flag == 1 else second

    def init_fn(params: optax.Params) -> Any:
        return first.init(params), second.init(params)

    def update_fn(
        updates: optax.Updates, state: Any, params: optax.Params | None = None
    ) -> tuple[optax.Updates, Any]:
        one, first_state = first.update(updates, state[0], params)
        other, second_state = second.update(updates, state[1], params)
        chosen = jax.tree.map(lambda a, b: jnp.where(flag == 1, a, b), one, other)
        return chosen, (first_state, second_state)

    return optax.GradientTransformation(init_fn, update_fn)
