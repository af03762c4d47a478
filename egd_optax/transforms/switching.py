"""One gradient transformation before an event, another from then on."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax import lax

from egd_optax.arguments import (
    ArgumentError,
    check_number,
    check_scalar,
    check_transformation,
    shown,
)
from egd_optax.leaves.checks import where_given


class SwitchOnMetricState(NamedTuple):
    """State of :func:`switch_on_metric`."""

    switched: jax.Array  # shape=(), dtype=bool; once True it stays True
    before: optax.OptState
    after: optax.OptState


def switch_on_metric(
    metric: str,
    threshold: jax.typing.ArrayLike,
    before: optax.GradientTransformation,
    after: optax.GradientTransformation,
) -> optax.GradientTransformationExtraArgs:
    r"""Applies ``before`` until a metric reaches a threshold, ``after`` from then on.

    The metric comes as an extra argument of ``update``:
    ``tx.update(grads, state, params, train_accuracy=accuracy)``. The update that sees
    ``metric >= threshold`` for the first time is already made by ``after``; a metric
    that falls again changes nothing, and NaN reaches no threshold. Only the branch in
    force is run (under ``vmap`` both are, as everywhere in JAX), the state of the other
    rests. Decide by training or validation metrics: a switch that looks at test data
    leaks them into training.

    Args:
      metric: name of the extra argument, a real scalar.
      threshold: value from which on ``after`` applies.
      before: gradient transformation until then.
      after: gradient transformation from then on. Both must give updates of the same
        dtypes.

    Returns:
      A gradient transformation that passes all extra arguments on.

    Raises:
      ArgumentError: ``metric`` is no name, ``threshold`` no number, ``before`` or
        ``after`` no gradient transformation; at ``update``, that is at trace time, the
        metric is not passed or no real scalar, or the two do not give updates and keep
        states of the same shapes and dtypes.

    Example:
      Plain gradients once 95 % of the validation data are right:

      >>> import jax.numpy as jnp, optax
      >>> from egd_optax import scale_by_egd, switch_on_metric
      >>> tx = switch_on_metric("accuracy", 0.95, scale_by_egd(), optax.identity())
      >>> grads = {"kernel": jnp.diag(jnp.array([2.0, 4.0]))}
      >>> state = tx.init(grads)
      >>> for accuracy in (0.5, 0.96, 0.9):
      ...     updates, state = tx.update(grads, state, accuracy=accuracy)
      ...     print(jnp.diagonal(updates["kernel"]))
      [1. 1.]
      [2. 4.]
      [2. 4.]

    Source: switching EGD off is proposed in Saheb Pasand and Dohmatob, *Egalitarian
    Gradient Descent*, arXiv 2510.04930.
    """
    if not isinstance(metric, str):
        raise ArgumentError(f"metric must be a name, got {shown(metric)}")
    # Infinity: never.
    check_number("threshold", threshold, finite=False)
    check_transformation("before", before)
    check_transformation("after", after)
    first = optax.with_extra_args_support(before)
    second = optax.with_extra_args_support(after)
    agreed: set[Any] = set()

    def init_fn(params: optax.Params) -> SwitchOnMetricState:
        return SwitchOnMetricState(
            jnp.zeros([], bool), first.init(params), second.init(params)
        )

    def update_fn(
        updates: optax.Updates,
        state: SwitchOnMetricState,
        params: optax.Params | None = None,
        **extra_args: Any,
    ) -> tuple[optax.Updates, SwitchOnMetricState]:
        if metric not in extra_args:
            passed = ", ".join(sorted(extra_args)) or "none"
            raise ArgumentError(
                f"switch_on_metric watches {metric!r}, which update was not given: "
                f"call tx.update(grads, state, params, {metric}=...) "
                f"(extra arguments passed: {passed})"
            )
        value = extra_args[metric]
        check_scalar(f"switch_on_metric's {metric}", value, "a real scalar", flags=True)
        switched = state.switched | (jnp.asarray(value) >= threshold)
        types: list[Any] = []
        params = where_given(updates, params)

        def run_before() -> tuple[optax.Updates, SwitchOnMetricState]:
            new, inner = first.update(updates, state.before, params, **extra_args)
            new_state = SwitchOnMetricState(switched, inner, state.after)
            return _of_same_types((new, new_state), types)

        def run_after() -> tuple[optax.Updates, SwitchOnMetricState]:
            new, inner = second.update(updates, state.after, params, **extra_args)
            new_state = SwitchOnMetricState(switched, state.before, inner)
            return _of_same_types((new, new_state), types)

        if isinstance(switched, jax.core.Tracer):
            return lax.cond(switched, run_after, run_before)
        # Outside of jit, a cond would be compiled anew at every call. That the other
        # side has the same types is then told once for all updates like this one.
        run, other = (run_after, run_before) if switched else (run_before, run_after)
        like_this = _types((updates, state, params))
        if like_this not in agreed:
            jax.eval_shape(other)
        result = run()
        agreed.add(like_this)
        return result

    return optax.GradientTransformationExtraArgs(init_fn, update_fn)


def _of_same_types(result: Any, types: list[Any]) -> Any:
    """The result of a branch, refused if the branch before it has other types."""
    types.append(_types(result))
    (first, first_leaves), (last, last_leaves) = types[0], types[-1]
    if types[0] != types[-1]:
        differing = set(zip(first_leaves, last_leaves, strict=False)) - {
            (leaf, leaf) for leaf in first_leaves
        }
        raise ArgumentError(
            "before and after must give updates, and keep states, of the same "
            f"structure, shapes and dtypes, got {shown(differing or (first, last))}"
        )
    return result


def _types(tree: Any) -> tuple[Any, tuple[str, ...]]:
    leaves, treedef = jax.tree.flatten(tree)
    return treedef, tuple(jax.typeof(leaf).str_short() for leaf in leaves)
