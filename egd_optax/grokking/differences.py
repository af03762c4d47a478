"""Where two descriptions of a run differ."""

from collections.abc import Iterable
from typing import Any


def first_difference(
    there: dict[str, Any], asked: dict[str, Any]
) -> tuple[str, Any, Any]:
    """The innermost name whose values differ, and both; "unknown" where it is missing.

    Args:
      there: JSON, as it was.
      asked: JSON that is not equal to it.
    """
    # Not None: that is a setting's value, too.
    for name in there | asked:
        old, new = there.get(name, "unknown"), asked.get(name, "unknown")
        if old == new:
            continue
        for one, other in _parts(old, new):
            if one != other:
                return first_difference(one, other)
        return name, old, new
    raise AssertionError("equal")


def _parts(old: Any, new: Any) -> Iterable[tuple[Any, Any]]:
    """What belongs together in two mappings, or in two lists of as many mappings."""
    if isinstance(old, dict) and isinstance(new, dict):
        return [(old, new)]
    lists = isinstance(old, list) and isinstance(new, list) and len(old) == len(new)
    if lists and all(isinstance(part, dict) for part in (*old, *new)):
        return zip(old, new, strict=True)
    return []
