"""Histories into TensorBoard and Weights & Biases, while they grow."""

import contextlib
import importlib.util
from collections.abc import Callable, Iterator
from pathlib import Path

from egd_optax.grokking.training.history import History


class Tracker:
    """Hands each evaluation of a growing history to a writer once.

    It is a ``report`` for :func:`egd_optax.grokking.training.train`.

    Args:
      write: takes a step and its values, named ``{metric}/seed-{seed}``.
    """

    def __init__(self, write: Callable[[int, dict[str, float]], None]):
        self._write = write
        self._written = 0

    def __call__(self, history: History) -> None:
        """Writes what is new."""
        for row in range(self._written, len(history.steps)):
            values = {
                f"{name}/seed-{seed}": float(metric[row, column])
                for name, metric in history.metrics.items()
                for column, seed in enumerate(history.seeds)
            }
            self._write(int(history.steps[row]), values)
        self._written = len(history.steps)


@contextlib.contextmanager
def tensorboard(folder: Path, run: str) -> Iterator[Tracker]:
    """Event files in ``folder/tensorboard/run``."""
    from tensorboardX import SummaryWriter

    # A resumed run writes its history from the start: TensorBoard is to forget what
    # earlier files have of these steps.
    target = str(folder / "tensorboard" / run)
    with SummaryWriter(target, purge_step=0) as writer:

        def write(step: int, values: dict[str, float]) -> None:
            for name, value in values.items():
                writer.add_scalar(name, value, step)

        yield Tracker(write)


@contextlib.contextmanager
def wandb(folder: Path, run: str) -> Iterator[Tracker]:
    """An offline run in ``folder/wandb``, for ``wandb sync`` to send."""
    import wandb as package

    settings = package.Settings(silent=True, console="off")
    with package.init(
        mode="offline", project="egd-optax", name=run, dir=folder, settings=settings
    ) as target:
        yield Tracker(lambda step, values: target.log(values, step=step))


# Name on the command line: writer and the package that it needs.
TRACKERS = {
    "tensorboard": (tensorboard, "tensorboardX"),
    "wandb": (wandb, "wandb"),
}


def check_trackers(names: tuple[str, ...]) -> None:
    """Raises ValueError, in one line, for trackers that are unknown or missing."""
    for name in names:
        if name not in TRACKERS:
            raise ValueError(
                f"unknown tracker {name!r}: choose among {', '.join(TRACKERS)}"
            )
        package = TRACKERS[name][1]
        if importlib.util.find_spec(package) is None:
            raise ValueError(
                f"the tracker {name!r} needs the package {package}: "
                "pip install 'egd-optax[tracking]'"
            )
