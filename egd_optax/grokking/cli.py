"""The command ``egd-grok``."""

import contextlib
import dataclasses
import json
import platform
import sys
from importlib.metadata import version
from pathlib import Path
from typing import Annotated, Any

import jax
import numpy as np
import tyro
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn

from egd_optax.grokking import figures
from egd_optax.grokking.checkpoints import CheckpointError, Checkpoints
from egd_optax.grokking.files import prepare_folder, replacing
from egd_optax.grokking.history import History, to_json_lines
from egd_optax.grokking.problems import (
    TASKS,
    Model,
    Problem,
    mnist_1k,
    modular,
    parity,
)
from egd_optax.grokking.recipes import RECIPES, SHOWN, baseline, recipes_for
from egd_optax.grokking.summary import summary_csv, summary_table
from egd_optax.grokking.tracking import TRACKERS, Tracker, check_trackers
from egd_optax.grokking.training import check_settings, train


@dataclasses.dataclass(frozen=True)
class Experiment:
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

    def recipes(self) -> tuple[str, ...] | None:
        """Names of the optimizers; None leaves the choice to the task."""
        raise NotImplementedError


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


def main() -> None:
    """Runs the command line."""
    command = tyro.cli(
        Annotated[Race, tyro.conf.subcommand("race")]
        | Annotated[Train, tyro.conf.subcommand("train")],
        prog="egd-grok",
        description="Races optimizers on the tasks on which neural networks grok.",
        config=(tyro.conf.OmitSubcommandPrefixes, tyro.conf.OmitArgPrefixes),
    )
    try:
        problem, names = _prepare(command)
        checkpoints = _checkpoints(command)
    except ValueError as error:
        print(f"egd-grok: {error}", file=sys.stderr)
        sys.exit(2)
    try:
        _run(command, names, problem, checkpoints)
    except CheckpointError as error:
        print(f"egd-grok: {error}", file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:
        print(f"\negd-grok: interrupted; see {command.out}", file=sys.stderr)
        sys.exit(130)


def _prepare(command: Experiment) -> tuple[Problem, tuple[str, ...]]:
    """All that bad input can break, before anything is run or written."""
    if command.seeds < 1:
        raise ValueError(f"seeds must be at least 1, got {command.seeds}")
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
    settings = dataclasses.replace(problem.settings, **changes)
    problem = dataclasses.replace(problem, settings=settings)

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
    check_settings(problem.task, settings)
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
    if command.checkpoint_every is not None and command.checkpoint_every < 1:
        raise ValueError(
            f"checkpoint_every must be at least 1, got {command.checkpoint_every}"
        )


def _checkpoints(command: Experiment) -> Checkpoints | None:
    if not isinstance(command, Train) or command.checkpoint_every is None:
        return None
    # Which files are written, where and when changes no number.
    aside = {"out", "checkpoint_every", "resume", "track"}
    fields = dataclasses.asdict(command)
    identity = {name: str(fields[name]) for name in fields.keys() - aside}
    identity |= _versions() | {"device": jax.devices()[0].device_kind}
    return Checkpoints(
        command.out / "checkpoints",
        command.checkpoint_every,
        identity,
        resume=command.resume,
    )


def _run(
    command: Experiment,
    names: tuple[str, ...],
    problem: Problem,
    checkpoints: Checkpoints | None,
) -> None:
    console = Console()
    task, settings = problem.task, problem.settings
    console.print(
        f"[bold]{task.name}[/], {problem.model_name}, "
        f"{settings.train_fraction:.0%} of all examples,\nbatches of "
        f"{settings.batch_size}, {len(settings.seeds)} seeds, up to "
        f"{settings.max_steps} steps, on {jax.devices()[0].device_kind}"
    )
    _write(command.out / "config.json", _config(command))
    histories: dict[str, History] = {}

    columns = (
        TextColumn("{task.description:<18}"),
        BarColumn(bar_width=24),
        MofNCompleteColumn(),
        TextColumn("{task.fields[accuracy]}"),
    )
    with Progress(*columns, console=console, transient=True) as progress:
        for name in names:
            bar = progress.add_task(
                name, total=settings.max_steps, accuracy="compiling …"
            )

            stack = contextlib.ExitStack()
            trackers = [
                stack.enter_context(TRACKERS[tracker][0](command.out, name))
                for tracker in command.track
            ]

            def report(
                history: History,
                name: str = name,
                bar: TaskID = bar,
                trackers: list[Tracker] = trackers,
            ) -> None:
                histories[name] = history
                progress.update(
                    bar, completed=int(history.steps[-1]), accuracy=_accuracy(history)
                )
                lines = (
                    {"optimizer": name, **record}
                    for name, history in histories.items()
                    for record in history.records()
                )
                _write(command.out / "history.jsonl", to_json_lines(lines))
                for tracker in trackers:
                    tracker(history)

            with stack:
                history = train(
                    task,
                    problem.make_model,
                    RECIPES[name].make(problem),
                    settings,
                    report=report,
                    checkpoints=checkpoints,
                )
            progress.remove_task(bar)
            console.print(f"{name:<18} {_accuracy(history)}  {_time(history)}")
            _write(
                command.out / "summary.csv",
                summary_csv(histories, settings.threshold, baseline=baseline(problem)),
            )
    title = f"{task.name}, {problem.model_name}, {len(settings.seeds)} seeds"
    picture = figures.race(histories, title=title, threshold=settings.threshold)
    with replacing(command.out / "race.png") as path:
        figures.save(picture, path)
    console.print()
    table = summary_table(
        histories,
        title=title,
        threshold=settings.threshold,
        baseline=baseline(problem),
    )
    console.print(table)
    console.print(f"Picture and data: {command.out}/")


def _config(command: Experiment) -> str:
    config = {
        "command": dataclasses.asdict(command),
        "device": jax.devices()[0].device_kind,
        "platform": platform.platform(),
        "python": platform.python_version(),
        "versions": _versions(),
    }
    return json.dumps(config, indent=2, default=str) + "\n"


def _versions() -> dict[str, str]:
    packages = "egd-optax", "jax", "jaxlib", "optax", "flax"
    return {package: version(package) for package in packages}


def _write(path: Path, text: str) -> None:
    with replacing(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def _accuracy(history: History) -> str:
    train, test = (
        100 * np.median(history.final(f"{part}_accuracy")) for part in ("train", "test")
    )
    return f"train {train:5.1f} %  test {test:5.1f} %"


def _time(history: History) -> str:
    return f"{history.steps[-1]:>6} steps in {history.run_seconds:.0f} s"


if __name__ == "__main__":
    main()
