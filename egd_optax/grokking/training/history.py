"""What a training run measured, and when it crossed a threshold."""

import dataclasses
import json
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np


@dataclasses.dataclass(frozen=True)
class Crossing:
    """The step at which each seed crossed a threshold; infinite where none did."""

    steps: np.ndarray  # (seeds,), float
    steps_per_epoch: int

    @property
    def median(self) -> float:
        """Median step over the seeds; infinite if half of them did not cross."""
        return float(np.median(self.steps))

    @property
    def range(self) -> tuple[float, float]:
        """Least and greatest step over the seeds."""
        return float(np.min(self.steps)), float(np.max(self.steps))

    @property
    def epochs(self) -> "Crossing":
        """The same, counted in epochs."""
        return Crossing(self.steps / self.steps_per_epoch, 1)


@dataclasses.dataclass(frozen=True)
class History:
    """Metrics of several seeds, evaluated at the same steps.

    Metrics are named ``{train, validation, test}_{loss, accuracy}``; the mean
    cross-entropy in nats, and the share of right answers in [0, 1], over the whole
    part.
    """

    seeds: tuple[int, ...]
    steps: np.ndarray  # (evaluations,), int: updates done before each evaluation
    steps_per_epoch: int
    metrics: Mapping[str, np.ndarray]  # each (evaluations, seeds)
    compile_seconds: float = 0.0
    run_seconds: float = 0.0

    def first_crossing(
        self, threshold: float = 0.95, metric: str = "test_accuracy"
    ) -> Crossing:
        """When each seed was evaluated at the threshold or above for the first time."""
        return self._crossing(self.metrics[metric] >= threshold)

    def sustained_crossing(
        self, threshold: float = 0.95, metric: str = "test_accuracy"
    ) -> Crossing:
        """When each seed came above the threshold, not to fall below until the end."""
        above = self.metrics[metric] >= threshold
        return self._crossing(np.logical_and.accumulate(above[::-1])[::-1])

    def final(self, metric: str = "test_accuracy") -> np.ndarray:
        """The last value of each seed, shape (seeds,)."""
        return self.metrics[metric][-1]

    def records(self) -> Iterator[dict[str, Any]]:
        """One JSON object an evaluation, with a list over seeds for each metric."""
        for row, step in enumerate(self.steps):
            yield {
                "step": int(step),
                "epoch": float(step / self.steps_per_epoch),
                **{
                    name: [_json_number(value) for value in values[row]]
                    for name, values in self.metrics.items()
                },
            }

    def _crossing(self, above: np.ndarray) -> Crossing:
        # A row of True after the last evaluation stands for never.
        rows = np.argmax(np.vstack([above, np.ones_like(above[:1])]), axis=0)
        return Crossing(np.append(self.steps, np.inf)[rows], self.steps_per_epoch)


def to_json_lines(records: Iterator[dict[str, Any]]) -> str:
    """Records as JSON Lines."""
    return "".join(json.dumps(record, allow_nan=False) + "\n" for record in records)


def from_json_lines(text: str) -> dict[str, History]:
    """The histories whose records, with the name of each, became these lines.

    Raises:
      ValueError, KeyError, TypeError, ArithmeticError: it is no such text.
    """
    records: dict[str, list[dict[str, Any]]] = {}
    for line in text.splitlines():
        record = json.loads(line)
        records.setdefault(record["optimizer"], []).append(record)
    return {name: _history(rows) for name, rows in records.items()}


def _history(rows: list[dict[str, Any]]) -> History:
    names = [x for x in rows[0] if x not in ("optimizer", "step", "epoch")]
    # What was no number is null.
    metrics = {name: np.array([row[name] for row in rows], float) for name in names}
    steps = np.array([row["step"] for row in rows])
    shape = metrics["test_accuracy"].shape
    if steps.dtype.kind != "i" or len(shape) != 2 or not all(shape):
        raise ValueError("no steps, or no seeds")
    if any(values.shape != shape for values in metrics.values()):
        raise ValueError("metrics of other seeds")
    return History(
        seeds=tuple(range(shape[1])),
        steps=steps,
        steps_per_epoch=round(rows[0]["step"] / rows[0]["epoch"]),
        metrics=metrics,
    )


def _json_number(value: float) -> float | None:
    # JSON has no NaN; a loss that overflowed is null.
    return round(float(value), 6) if np.isfinite(value) else None
