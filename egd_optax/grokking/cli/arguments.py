"""What the command line takes, and the problem that it asks for."""

import abc
import dataclasses
from pathlib import Path
from typing import Any

import tyro

from egd_optax.grokking.files import prepare_folder
from egd_optax.grokking.problems.problem import (
    TASKS,
    Model,
    Problem,
    check_memory,
    mnist_1k,
    modular,
    parity,
    with_settings,
)
from egd_optax.grokking.problems.settings import check_settings
from egd_optax.grokking.problems.tasks import check_range
from egd_optax.grokking.recipes import SHOWN, recipes_for
from egd_optax.grokking.tracking import check_trackers


@dataclasses.dataclass(frozen=True)
class Experiment(abc.ABC):
    """What both commands take. What is None takes the task's own setting."""

    task: tyro.conf.Positional[str]
    """addition, subtraction, multiplication or division, parity, or mnist."""
    modulus: int = 97
    """p of a ∘ b mod p; a prime for division."""
    model: Model = "mlp"
    """For modular arithmetic: the two-layer net or the transformer."""
    bits: int = 100
    """Number of bits of a parity's input."""
    subset_size: int = 3
    """Number of bits of which the parity is taken."""
    secret_seed: int | None = None
    """Draws these bits at random; None: the first ones."""
    width: int | None = None
    """Units of each hidden layer; features of the transformer."""
    seeds: int = 3
    """Number of seeds; each moves initialization, split and order of batches."""
    max_steps: int | None = None
    """Budget of updates for each optimizer and seed."""
    batch_size: int | None = None
    """Examples a step."""
    train_fraction: float | None = None
    """Share of all examples that is trained on."""
    threshold: float | None = None
    """Test accuracy that counts as generalization."""
    patience: int = 20
    """An optimizer stops after this many evaluations with all seeds above the
    threshold."""
    epochs_per_evaluation: int = 1
    """Epochs between two evaluations."""
    out: Path = Path("runs/latest")
    """Folder for history.jsonl, summary.csv, config.json and race.png."""
    track: tuple[str, ...] = ()
    """Writers besides history.jsonl: tensorboard, wandb (offline)."""

    @abc.abstractmethod
    def recipes(self) -> tuple[str, ...] | None:
        """Names of the optimizers; None leaves the choice to the task."""


@dataclasses.dataclass(frozen=True)
class Race(Experiment):
    """Trains the same model with several optimizers and shows who generalizes first."""

    optimizers: tuple[str, ...] | None = None
    """Names of recipes; None: a choice of those that serve the task."""

    def recipes(self) -> tuple[str, ...] | None:
        return self.optimizers


@dataclasses.dataclass(frozen=True)
class Train(Experiment):
    """Trains with one optimizer."""

    optimizer: str = "egd"
    """Name of a recipe."""
    checkpoint_every: int | None = None
    """Updates from one checkpoint to the next, in checkpoints/ of the output folder."""
    resume: bool = False
    """Goes on from the checkpoint, where there is one."""

    def recipes(self) -> tuple[str, ...] | None:
        return (self.optimizer,)


def prepare(command: Experiment) -> tuple[Problem, tuple[str, ...]]:
    """All that bad input can break, before anything is run or written."""
    check_range("seeds", command.seeds, at_most=2**20)
    if not str(command.out).isprintable():
        raise ValueError(f"out must be a printable name, got {str(command.out)!r}")
    problem = _problem(command)
    changes: dict[str, Any] = {
        "seeds": tuple(range(command.seeds)),
        "max_steps": command.max_steps,
        "batch_size": command.batch_size,
        "train_fraction": command.train_fraction,
        "threshold": command.threshold,
        "patience": command.patience,
        "epochs_per_evaluation": command.epochs_per_evaluation,
    }
    changes = {name: value for name, value in changes.items() if value is not None}
    problem = with_settings(problem, **changes)

    offered = recipes_for(problem)
    names = command.recipes()
    if names is None:
        names = tuple(name for name in SHOWN if name in offered)
    for name in names:
        if name not in offered:
            raise ValueError(
                f"{problem.task.name} has no optimizer {name!r}: choose among "
                f"{', '.join(offered)}"
            )
    if not names:
        raise ValueError(f"no optimizers: choose among {', '.join(offered)}")
    if isinstance(command, Train):
        _check_checkpointing(command)
    check_trackers(command.track)
    check_settings(problem.task, problem.settings)
    check_memory(problem)
    prepare_folder(command.out)
    return problem, names


def _problem(command: Experiment) -> Problem:
    if command.task == "parity":
        return parity(
            command.bits,
            command.subset_size,
            secret_seed=command.secret_seed,
            width=command.width,
        )
    if command.task == "mnist":
        return mnist_1k(width=command.width)
    if command.task not in TASKS:
        raise ValueError(
            f"unknown task {command.task!r}: choose one of {', '.join(TASKS)}"
        )
    return modular(
        command.task, command.modulus, model=command.model, width=command.width
    )


def _check_checkpointing(command: Train) -> None:
    if command.checkpoint_every is None and command.resume:
        raise ValueError("--resume needs --checkpoint-every, got none")
    if command.checkpoint_every is not None:
        check_range("checkpoint_every", command.checkpoint_every)
