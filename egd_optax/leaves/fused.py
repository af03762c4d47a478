"""An axis that holds several matrices side by side."""

import operator
from typing import Any

from egd_optax.arguments import ArgumentError, checked_count, shown


class FusedAxis(int):
    r"""An axis along which several matrices of one size lie side by side.

    For an axis of ``optax.contrib.MuonDimensionNumbers``. A kernel (d, 3 d) that
    computes query, key and value at once is three matrices:

    .. math:: [W_q \mid W_k \mid W_v] \;\mapsto\; [\operatorname{polar}(W_q) \mid
        \operatorname{polar}(W_k) \mid \operatorname{polar}(W_v)]

    Each is whitened, normalized or measured alone, as if it were an array of its own.
    ``optax.contrib.muon``, and whatever else takes it for an index, sees the integer
    that it is, and the kernel as one matrix. It equals that integer for one part alone,
    as two layouts that differ must not pass for one.

    Args:
      axis: the axis, an integer.
      parts: how many matrices lie along it, one after another.

    Raises:
      ArgumentError: ``axis`` is no integer, ``parts`` no integer of at least 1;
        where it is used, an axis whose length ``parts`` does not divide.

    Example:
      >>> import jax.numpy as jnp
      >>> from optax.contrib import MuonDimensionNumbers
      >>> from egd_optax import FusedAxis, singular_values
      >>> qkv = jnp.concatenate([jnp.eye(2), 2 * jnp.eye(2), 3 * jnp.eye(2)], axis=1)
      >>> numbers = MuonDimensionNumbers(0, FusedAxis(1, parts=3))
      >>> print(singular_values(qkv, weight_dimension_numbers=numbers))
      [[1. 1.]
       [2. 2.]
       [3. 3.]]
    """

    parts: int

    def __new__(cls, axis: int, parts: int) -> "FusedAxis":
        try:
            self = super().__new__(cls, operator.index(axis))
        except TypeError as error:
            raise ArgumentError(
                f"axis must be an integer, got {shown(axis)}"
            ) from error
        self.parts = checked_count("parts", parts)
        return self

    # What a copy and a pickle are made from.
    def __getnewargs__(self) -> tuple[int, int]:  # type: ignore[override]
        return int(self), self.parts

    # Two axes are one number and may yet be laid out differently.
    def __eq__(self, other: Any) -> bool:
        return (
            isinstance(other, int)
            and int(self) == int(other)
            and self.parts == getattr(other, "parts", 1)
        )

    def __ne__(self, other: Any) -> bool:
        return not self == other

    def __hash__(self) -> int:
        return hash((int(self), self.parts) if self.parts > 1 else int(self))

    def __repr__(self) -> str:
        return f"FusedAxis({int(self)}, parts={self.parts})"
