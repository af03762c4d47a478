"""What a compiled program sends between devices."""

import math
import re
from typing import NamedTuple

import jax
import numpy as np

KINDS = (
    "all-gather",
    "all-reduce",
    "all-to-all",
    "collective-broadcast",
    "collective-permute",
    "ragged-all-to-all",
    "reduce-scatter",
)
# An operation after its result, whose shape may be a tuple. Of an asynchronous pair,
# the start counts.
OPERATION = re.compile(
    rf"^\s+(?:ROOT )?%?\S+ = (\(.*?\)|\S+) ({'|'.join(KINDS)})(-start)?\("
)
SHAPE = re.compile(r"\b([a-z]+\d+)\[([\d,]*)\]")


class Collective(NamedTuple):
    """One of the operations in which devices exchange data."""

    kind: str
    bytes: int  # that each device has after it
    inside: bool  # of a loop or another part that the program calls


def collectives(compiled: jax.stages.Compiled) -> list[Collective]:
    """All of a program, in the order in which they are written there."""
    found, inside = [], False
    for line in compiled.as_text().splitlines():
        if line.endswith("{") and not line.startswith((" ", "HloModule")):
            # On a GPU, one that runs beside others is wrapped in a part of its own.
            inside = not line.startswith(("ENTRY", "%async"))
        elif operation := OPERATION.match(line):
            result, kind, start = operation.groups()
            sizes = [_bytes(*shape) for shape in SHAPE.findall(result)]
            # The result of a start holds its operand, too.
            found.append(Collective(kind, (max if start else sum)(sizes), inside))
    return found


def _bytes(dtype: str, shape: str) -> int:
    name = {"f": "float", "s": "int", "u": "uint", "c": "complex"}.get(dtype[0])
    width = 2 if dtype == "bf16" else np.dtype(name + dtype[1:]).itemsize
    return width * math.prod(int(size) for size in shape.split(",") if size)
