"""Arguments refused where they are given, not where they would fail."""

import math
import operator
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax


class ArgumentError(ValueError, TypeError):
    """What every public function raises for an argument that it cannot use.

    The message names the argument, the value and what would do. It is a ``ValueError``
    and a ``TypeError`` at once, so that code that expects either catches it.

    Example:
      >>> import egd_optax
      >>> try:
      ...     egd_optax.inverse_time_decay(0.1, halving_steps=0)
      ... except ValueError as error:
      ...     print(error)
      halving_steps must be a number above 0, got 0
    """


def shown(value: Any) -> str:
    """A value as it stands in a message: on one line, and not for pages."""
    try:
        text = " ".join(repr(value).split())
    except Exception:
        # An int of more than 4300 digits, an array whose buffer was given away.
        text = f"a {type(value).__name__}"
    return text if len(text) <= 200 else f"{text[:200]} …"


def check_number(
    name: str,
    value: Any,
    *,
    at_least: float = -math.inf,
    above: float = -math.inf,
    below: float = math.inf,
    finite: bool = True,
) -> None:
    """Refuses what is no real scalar, and a number out of range.

    A traced value, such as all numbers are under ``optax.inject_hyperparams``, has a
    type and a shape, and may be any number.
    """
    bounds = [
        f" {words} {bound}"
        for words, bound in (("of at least", at_least), ("above", above))
        if bound > -math.inf
    ]
    if below < math.inf:
        bounds.append(f" below {below}")
    wanted = ("a" if bounds or not finite else "a finite") + " number"
    wanted += " and".join(bounds)
    if callable(value):
        wanted += " (a schedule only under optax.inject_hyperparams)"
    scalar = check_scalar(name, value, wanted)
    if scalar is None:
        return
    in_range = (
        at_least <= scalar
        and (above < scalar or above == -math.inf)
        and (scalar < below or below == math.inf)
        and (math.isfinite(scalar) or not finite)
    )
    if not in_range:
        if finite and math.isinf(scalar):
            wanted = wanted.replace("a number", "a finite number")
        raise ArgumentError(f"{name} must be {wanted}, got {shown(value)}")


def checked_schedule(
    name: str, value: optax.ScalarOrSchedule, *, at_least: float = -math.inf
) -> optax.ScalarOrSchedule:
    """A number; or a schedule, made to refuse what it gives if that is no number."""
    if not callable(value):
        check_number(name, value, at_least=at_least)
        return value

    def schedule(step: jax.typing.ArrayLike) -> jax.typing.ArrayLike:
        result = value(step)
        check_scalar(f"what the schedule {name} returns", result, "a number")
        return result

    return schedule


def check_scalar(
    name: str, value: Any, wanted: str, *, flags: bool = False
) -> float | None:
    """The value, None where it is traced; refused if it is no real scalar.

    ``flags`` lets True and False pass for 1 and 0.
    """
    kinds = [jnp.floating, jnp.integer, *[np.bool_] * flags]
    traced = isinstance(value, jax.core.Tracer)
    try:
        array = value if traced else np.asarray(value)
        real = array.shape == () and any(
            jnp.issubdtype(array.dtype, kind) for kind in kinds
        )
        # JAX holds integers in 32 bits, unless it is told otherwise.
        real = real and not (isinstance(value, int) and abs(value) >= 2**31)
    except (TypeError, ValueError):
        real = False
    if real:
        return None if traced else float(array)
    if isinstance(value, int) and not isinstance(value, bool):
        wanted += " (an integer of at most 32 bits, or a float)"
    raise ArgumentError(f"{name} must be {wanted}, got {shown(value)}")


def check_integer(name: str, value: Any, *, at_least: int) -> None:
    """Refuses what is no integer of 32 bits; a traced one may be any."""
    check_number(name, value, at_least=at_least)
    if not jnp.issubdtype(jnp.result_type(value), jnp.integer):
        raise ArgumentError(f"{name} must be an integer, got {shown(value)}")


def checked_count(name: str, value: int, *, at_most: int = 2**31 - 1) -> int:
    """An argument as an int, refused if it is traced, no integer or out of range."""
    try:
        if isinstance(value, (bool, np.bool_)):
            raise TypeError("a flag, no number")
        count = operator.index(value)
    except TypeError as error:
        wanted = "a static integer"
        if isinstance(value, jax.core.Tracer):
            wanted += f" (under optax.inject_hyperparams: static_args={name!r})"
        raise ArgumentError(f"{name} must be {wanted}, got {shown(value)}") from error
    if count < 1:
        raise ArgumentError(f"{name} must be at least 1, got {shown(value)}")
    if count > at_most:
        raise ArgumentError(f"{name} must be at most {at_most}, got {shown(value)}")
    return count


def check_flag(name: str, value: Any) -> None:
    """Refuses what is neither True nor False."""
    if not isinstance(value, (bool, np.bool_)):
        raise ArgumentError(f"{name} must be True or False, got {shown(value)}")


def checked_dtype(name: str, dtype: Any, kind: Any, wanted: str) -> jnp.dtype:
    """What the argument names, refused if it is of another kind, or below 16 bits."""
    try:
        # An array has a dtype, and is none.
        if isinstance(dtype, (jax.Array, np.ndarray, np.generic)):
            raise TypeError("an array")
        found = jnp.dtype(dtype)
    except TypeError as error:
        raise ArgumentError(f"{name} must be {wanted}, got {shown(dtype)}") from error
    if not jnp.issubdtype(found, kind):
        raise ArgumentError(f"{name} must be {wanted}, got {found}")
    if jnp.finfo(found).bits < 16:
        raise ArgumentError(f"{name} must have 16 bits at least, got {found}")
    return found


def checked_matrix(x: jax.typing.ArrayLike) -> jax.Array:
    """X as an array, refused if it is no matrix of floating numbers."""
    try:
        x = jnp.asarray(x)
    except (TypeError, ValueError, OverflowError) as error:
        raise ArgumentError(
            f"x must be an array (..., m, n), got {shown(x)}"
        ) from error
    if x.ndim < 2:
        raise ArgumentError(f"x must be an array (..., m, n), got {x.shape=}")
    if not jnp.issubdtype(x.dtype, jnp.inexact):
        raise ArgumentError(f"x must have a floating dtype, got {x.dtype}")
    return x


def checked_whitening(
    polar_fn: Callable[[jax.Array], jax.Array],
) -> Callable[[jax.Array], jax.Array]:
    """A given ``polar_fn``, made to refuse results of another shape than its array."""
    if not callable(polar_fn):
        raise ArgumentError(
            "polar_fn must be a function of an array (..., m, n), or None, got "
            f"{shown(polar_fn)}"
        )

    def whiten(x: jax.Array) -> jax.Array:
        result = polar_fn(x)
        shape = getattr(result, "shape", None)
        if shape != x.shape:
            raise ArgumentError(
                f"polar_fn must return an array of the shape {x.shape} that it was "
                f"given, got {shown(result) if shape is None else shape} from "
                f"{shown(polar_fn)}"
            )
        return result

    return whiten


def check_transformation(name: str, value: Any) -> None:
    """Refuses what has no ``init`` and ``update``."""
    if not all(callable(getattr(value, part, None)) for part in ("init", "update")):
        raise ArgumentError(
            f"{name} must be an optax.GradientTransformation, got {shown(value)}"
        )


def check_key(name: str, key: Any) -> None:
    """Refuses what is no single random key, typed or of raw data."""
    try:
        jax.eval_shape(lambda: jax.random.bits(key))
    except (TypeError, ValueError) as error:
        raise ArgumentError(
            f"{name} must be a single key, jax.random.key(…), got {shown(key)}"
        ) from error
