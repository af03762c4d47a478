"""What the command line takes, and the problem that it asks for."""

import abc
import dataclasses
from pathlib import Path
from typing import Any, NamedTuple

import optax
import tyro

from egd_optax.grokking.cli.settings_file import SettingsFile, read_settings
from egd_optax.grokking.files import prepare_folder
from egd_optax.grokking.measures import measures
from egd_optax.grokking.problems.problem import (
    TASKS,
    Model,
    Problem,
    check_memory,
    from_table,
    mnist_1k,
    modular,
    on_group,
    parity,
    with_settings,
)
from egd_optax.grokking.problems.settings import check_settings
from egd_optax.grokking.problems.tasks import check_range
from egd_optax.grokking.recipes import RECIPES, SHOWN, TUNED, recipes_for
from egd_optax.grokking.tracking import check_trackers
from egd_optax.grokking.training.run import check_measures


@dataclasses.dataclass(frozen=True)
class Experiment(abc.ABC):
    """What all commands take. What is None takes the task's own setting."""

    task: tyro.conf.Positional[str]
    """What is to be learned: an operation mod p (addition, subtraction, multiplication,
    division, division-by-odd, squares, quadratic, quadratic-linear, cubic,
    cubic-linear), one on a group, one from a table, parity, or mnist."""
    modulus: int = 97
    """p of a ∘ b mod p; a prime for division."""
    group: str = "S5"
    """Of the task group: C97, D48, S5, A5 and the like, or a .csv or .npy file with its
    multiplication table."""
    word: str = "xy"
    """What is asked of two elements of a group: xy, xyx, or xyx^-1."""
    table: Path | None = None
    """Of the task table: a .csv or .npy file with a ∘ b in row a and column b, from 0
    on; below 0 where there is none."""
    model: Model = "mlp"
    """Of operations: the two-layer net, a transformer of two blocks, or one of a single
    block without LayerNorm."""
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
    full_batch: bool = False
    """All training examples in each step."""
    corrupted_labels: float = 0.0
    """Share of the training examples whose labels are wrong, from 0 to 1."""
    label_noise: float = 0.0
    """Probability that a label is a wrong one, drawn anew in each step."""
    train_fraction: float | None = None
    """Share of all examples that is trained on."""
    threshold: float | None = None
    """Accuracy on held-out examples that counts as generalization."""
    epochs_per_evaluation: int = 1
    """Epochs between two evaluations."""
    out: Path = Path("runs/latest")
    """Folder for all that the command leaves."""
    keep_compiled: bool = True
    """Keeps compiled programs in the cache folder: the next run starts sooner."""

    @abc.abstractmethod
    def recipes(self) -> tuple[str, ...] | None:
        """Names of the optimizers; None leaves the choice to the task."""


@dataclasses.dataclass(frozen=True)
class Training(Experiment):
    """What the commands take that train; history.jsonl, summary.csv, config.json and
    race.png are what they leave.
    """

    patience: int = 20
    """An optimizer stops after this many evaluations with all seeds above the
    threshold."""
    track: tuple[str, ...] = ()
    """Writers besides history.jsonl: tensorboard, wandb (offline)."""
    measures: tuple[str, ...] = ()
    """Evaluated beside accuracy: weight-norm, distance, effective-rank,
    condition-number, alignment, dead-units, fourier-share, progress."""


@dataclasses.dataclass(frozen=True)
class Race(Training):
    """Trains the same model with several optimizers and shows who generalizes first."""

    optimizers: tuple[str, ...] | None = None
    """Names of recipes; None: a choice of those that serve the task."""
    settings: Path | None = None
    """File of settings that `egd-grok tune` found, best.json; its optimizers are run
    unless --optimizers names others."""

    def recipes(self) -> tuple[str, ...] | None:
        return self.optimizers


@dataclasses.dataclass(frozen=True)
class Tune(Experiment):
    """Searches the settings of several optimizers, on equal terms: each gets the same
    trials, judged by held-out examples. Leaves trials.csv, best.json, tune.png and a
    table; started again with the same --out it goes on where it stopped.
    """

    out: Path = Path("runs/tune")
    """Folder for all that the command leaves."""
    optimizers: tuple[str, ...] | None = None
    """Names of recipes that have settings to search; None: a choice of them."""
    trials: int = 64
    """Trials of each optimizer, spread over its whole space."""
    refined: int = 0
    """Further trials of each, near the best of those."""
    draw: int = 0
    """Seed of the settings that are tried."""
    validation_fraction: float = 0.2
    """Share of the training examples that is held out to judge by; 0 judges by the test
    examples, which is for problems that no result is reported on."""

    def recipes(self) -> tuple[str, ...] | None:
        return self.optimizers


@dataclasses.dataclass(frozen=True)
class Train(Training):
    """Trains with one optimizer."""

    optimizer: str = "egd"
    """Name of a recipe."""
    checkpoint_every: int | None = None
    """Updates from one checkpoint to the next, in checkpoints/ of the output folder."""
    resume: bool = False
    """Goes on from the checkpoint, where there is one."""

    def recipes(self) -> tuple[str, ...] | None:
        return (self.optimizer,)


class Prepared(NamedTuple):
    """What a command runs on."""

    problem: Problem
    names: tuple[str, ...]  # of the optimizers
    found: SettingsFile  # by a search; of no optimizer, where none was asked for

    def optimizer(self, name: str) -> optax.GradientTransformation:
        """With the settings of the file, or else of its recipe."""
        recipe = RECIPES[name]
        if name in self.found.settings:
            return recipe.build(self.problem, **self.found.settings[name])
        return recipe.make(self.problem)


def prepare(command: Experiment) -> Prepared:
    """All that bad input can break, before anything is run or written."""
    check_range("seeds", command.seeds, at_most=2**20)
    if not str(command.out).isprintable():
        raise ValueError(f"out must be a printable name, got {str(command.out)!r}")
    problem = _problem(command)
    # A race has others than the search whose settings it runs.
    begin = 100 if isinstance(command, Tune) else 0
    changes: dict[str, Any] = {
        "seeds": tuple(range(begin, begin + command.seeds)),
        "max_steps": command.max_steps,
        "batch_size": command.batch_size,
        "train_fraction": command.train_fraction,
        "threshold": command.threshold,
        "epochs_per_evaluation": command.epochs_per_evaluation,
        "corrupted_labels": command.corrupted_labels,
        "label_noise": command.label_noise,
    }
    if isinstance(command, Training):
        changes["patience"] = command.patience
    if isinstance(command, Tune):
        _check_search(command)
        changes["validation_fraction"] = command.validation_fraction
    changes = {name: value for name, value in changes.items() if value is not None}
    problem = with_settings(problem, **changes)
    if command.full_batch:
        if command.batch_size is not None:
            raise ValueError(
                f"batch_size must not be given with --full-batch, got "
                f"{command.batch_size}"
            )
        problem = with_settings(problem, batch_size=None)

    found = SettingsFile()
    if isinstance(command, Race) and command.settings is not None:
        found = read_settings(command.settings)
    names = _names(command, problem, tuple(found.settings))
    prepared = Prepared(problem, names, found)
    if isinstance(command, Train):
        _check_checkpointing(command)
    if isinstance(command, Training):
        check_trackers(command.track)
    check_settings(problem.task, problem.settings)
    check_memory(problem)
    if isinstance(command, Training) and command.measures:
        check_measures(
            problem.task,
            problem.make_model,
            problem.settings,
            measures(command.measures),
        )
    for name in found.settings:
        prepared.optimizer(name)  # numbers that it does not take
    prepare_folder(command.out)
    return prepared


def _names(
    command: Experiment, problem: Problem, in_file: tuple[str, ...]
) -> tuple[str, ...]:
    """Of the optimizers, all of which are offered."""
    offered = recipes_for(problem)
    if isinstance(command, Tune):
        offered = TUNED
    names = command.recipes()
    if names is None:
        names = in_file or tuple(name for name in SHOWN if name in offered)
    offered = tuple(dict.fromkeys((*offered, *in_file)))
    for name in names:
        if name not in offered:
            wrong = f"{problem.task.name} has no optimizer {name!r}"
            if isinstance(command, Tune) and name in RECIPES:
                wrong = f"the optimizer {name!r} has no settings to search"
            raise ValueError(f"{wrong}: choose among {', '.join(offered)}")
    if not names:
        raise ValueError(f"no optimizers: choose among {', '.join(offered)}")
    return tuple(dict.fromkeys(names))


def _check_search(command: Tune) -> None:
    check_range("trials", command.trials, at_most=2**16)
    check_range("refined", command.refined, at_least=0, at_most=2**16)
    check_range("draw", command.draw, at_least=0)
    if not 0 <= command.validation_fraction < 1:
        raise ValueError(
            f"validation_fraction must lie in [0, 1), got {command.validation_fraction}"
        )


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
    kind: dict[str, Any] = {"model": command.model, "width": command.width}
    if command.task == "group":
        return on_group(command.group, command.word, **kind)
    if command.task == "table":
        if command.table is None:
            raise ValueError("the task table needs --table and a file, got none")
        return from_table(command.table, **kind)
    return modular(command.task, command.modulus, **kind)


def _check_checkpointing(command: Train) -> None:
    if command.checkpoint_every is None and command.resume:
        raise ValueError("--resume needs --checkpoint-every, got none")
    if command.checkpoint_every is not None:
        check_range("checkpoint_every", command.checkpoint_every)
