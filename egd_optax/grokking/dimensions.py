"""Ranges of settings that a search draws from: places in [0, 1) become values."""

import dataclasses
import math
from typing import Protocol


class Dimension(Protocol):
    """A range of a setting."""

    @property
    def wanted(self) -> str:
        """What the setting may be, also outside of the range that is searched."""

    def accepts(self, value: float) -> bool:
        """Whether it may be this."""

    def at(self, place: float) -> float:
        """The value at a place in [0, 1)."""


@dataclasses.dataclass(frozen=True)
class LogUniform:
    """As many values in each decade."""

    low: float
    high: float

    wanted = "a number above 0"

    def accepts(self, value: float) -> bool:
        """Whether it may be this."""
        return 0 < value < math.inf

    def __post_init__(self) -> None:
        if not 0 < self.low < self.high < math.inf:
            raise ValueError(
                f"a range must rise between positive numbers, got {self.low} to "
                f"{self.high}"
            )

    def at(self, place: float) -> float:
        """The value at a place in [0, 1)."""
        # Four digits: what is printed is what was run.
        return float(f"{self.low * (self.high / self.low) ** place:.4g}")


@dataclasses.dataclass(frozen=True)
class OneMinus:
    """Values whose distance from one is drawn, such as a momentum."""

    distance: Dimension

    wanted = "a number in [0, 1)"

    def accepts(self, value: float) -> bool:
        """Whether it may be this."""
        return 0 <= value < 1

    def at(self, place: float) -> float:
        """The value at a place in [0, 1)."""
        return round(1 - self.distance.at(place), 6)


@dataclasses.dataclass(frozen=True)
class Whole:
    """Whole numbers, of which none may be larger."""

    low: int
    high: int

    @property
    def wanted(self) -> str:
        """What the setting may be."""
        return f"a whole number from 1 to {self.high}"

    def accepts(self, value: float) -> bool:
        """Whether it may be this."""
        return 1 <= value <= self.high and value == int(value)

    def at(self, place: float) -> float:
        """The value at a place in [0, 1)."""
        return round(LogUniform(self.low, self.high).at(place))


@dataclasses.dataclass(frozen=True)
class Choice:
    """One of a few values, each as likely."""

    values: tuple[float, ...]

    @property
    def wanted(self) -> str:
        """What the setting may be."""
        return f"one of {', '.join(map(str, self.values))}"

    def accepts(self, value: float) -> bool:
        """Whether it may be this."""
        return value in self.values

    def __post_init__(self) -> None:
        if not self.values:
            raise ValueError("a choice needs values, got none")

    def at(self, place: float) -> float:
        """The value at a place in [0, 1)."""
        return self.values[int(place * len(self.values))]


@dataclasses.dataclass(frozen=True)
class Or:
    """A value of its own with a share of the places, else what a range has."""

    value: float
    otherwise: Dimension
    share: float = 0.5

    @property
    def wanted(self) -> str:
        """What the setting may be."""
        special = "null" if math.isinf(self.value) else f"{self.value:g}"
        return f"{special} or {self.otherwise.wanted}"

    def accepts(self, value: float) -> bool:
        """Whether it may be this."""
        return value == self.value or self.otherwise.accepts(value)

    def at(self, place: float) -> float:
        """The value at a place in [0, 1)."""
        if place < self.share:
            return self.value
        return self.otherwise.at((place - self.share) / (1 - self.share))
