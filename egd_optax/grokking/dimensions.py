"""Ranges of settings that a search draws from: places in [0, 1) become values."""

import dataclasses
import math
from typing import Protocol


class Dimension(Protocol):
    """A range of a setting."""

    def at(self, place: float) -> float:
        """The value at a place in [0, 1)."""


@dataclasses.dataclass(frozen=True)
class LogUniform:
    """As many values in each decade."""

    low: float
    high: float

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

    def at(self, place: float) -> float:
        """The value at a place in [0, 1)."""
        return round(1 - self.distance.at(place), 6)


@dataclasses.dataclass(frozen=True)
class Whole:
    """Whole numbers."""

    values: Dimension

    def at(self, place: float) -> float:
        """The value at a place in [0, 1)."""
        return round(self.values.at(place))


@dataclasses.dataclass(frozen=True)
class Choice:
    """One of a few values, each as likely."""

    values: tuple[float, ...]

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

    def at(self, place: float) -> float:
        """The value at a place in [0, 1)."""
        if place < self.share:
            return self.value
        return self.otherwise.at((place - self.share) / (1 - self.share))
