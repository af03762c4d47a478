"""The command ``egd-grok``."""

import contextlib
import dataclasses
import json
import platform
import sys
from importlib.metadata import version
from pathlib import Path
from typing import Annotated

import jax
import numpy as np
import tyro
from flax import nnx
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn

from egd_optax.grokking import figures
from egd_optax.grokking.checkpoints import CheckpointError, Checkpoints
from egd_optax.grokking.files import prepare_folder, replacing
from egd_optax.grokking.history import History, to_json_lines
from egd_optax.grokking.models import TwoLayerNet
from egd_optax.grokking.recipes import RECIPES
from egd_optax.grokking.summary import summary_csv, summary_table
from egd_optax.grokking.tasks import Task, modular_arithmetic
from egd_optax.grokking.tracking import TRACKERS, Tracker, check_trackers
from egd_optax.grokking.training import Settings, check_settings, train


@dataclasses.dataclass(frozen=True)
class Experiment:
    """What both commands take."""

    task: tyro.conf.Positional[str]
    """addition, subtraction, multiplication or division."""
    modulus: int = 97
    """p of a ∘ b mod p; a prime for division."""
    seeds: int = 3
    """Number of seeds; each moves initialization, split and order of batches."""
    max_steps: int = 1500
    """Budget of updates for each optimizer and seed."""
    batch_size: int = 512
    """Examples a step."""
    train_fraction: float = 0.5
    """Share of all p² pairs that is trained on."""
    width: int = 512
    """Hidden units of the two-layer net."""
    threshold: float = 0.95
    """Test accuracy that counts as generalization."""
    patience: int = 20
    """An optimizer stops after this many epochs with all seeds above the threshold."""
    out: Path = Path("runs/latest")
    """Folder for history.jsonl, summary.csv, config.json and race.png."""
    track: tuple[str, ...] = ()
    """Writers besides history.jsonl: tensorboard, wandb (offline)."""


@dataclasses.dataclass(frozen=True)
class Race(Experiment):
    """Trains the same model with several optimizers and shows who generalizes first."""

    optimizers: tuple[str, ...] = tuple(RECIPES)
    """Names of recipes."""


@dataclasses.dataclass(frozen=True)
class Train(Experiment):
    """Trains with one optimizer."""

    optimizer: str = "egd"
    """Name of a recipe."""
    checkpoint_every: int | None = None
    """Updates from one checkpoint to the next, in checkpoints/ of the output folder."""
    resume: bool = False
    """Goes on from the checkpoint, where there is one."""


def main() -> None:
    """Runs the command line."""
    command = tyro.cli(
        Annotated[Race, tyro.conf.subcommand("race")]
        | Annotated[Train, tyro.conf.subcommand("train")],
        prog="egd-grok",
        description="Races optimizers on the tasks on which neural networks grok.",
        config=(tyro.conf.OmitSubcommandPrefixes, tyro.conf.OmitArgPrefixes),
    )
    names = command.optimizers if isinstance(command, Race) else (command.optimizer,)
    try:
        task, settings = _prepare(command, names)
        checkpoints = _checkpoints(command)
    except ValueError as error:
        print(f"egd-grok: {error}", file=sys.stderr)
        sys.exit(2)
    try:
        _run(command, names, task, settings, checkpoints)
    except CheckpointError as error:
        print(f"egd-grok: {error}", file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:
        print(f"\negd-grok: interrupted; see {command.out}", file=sys.stderr)
        sys.exit(130)


def _prepare(command: Experiment, names: tuple[str, ...]) -> tuple[Task, Settings]:
    """All that bad input can break, before anything is run or written."""
    task = modular_arithmetic(command.task, command.modulus)
    for name in names:
        if name not in RECIPES:
            raise ValueError(
                f"unknown optimizer {name!r}: choose among {', '.join(RECIPES)}"
            )
    if not names:
        raise ValueError(f"no optimizers: choose among {', '.join(RECIPES)}")
    for number in ("seeds", "width"):
        if getattr(command, number) < 1:
            raise ValueError(
                f"{number} must be at least 1, got {getattr(command, number)}"
            )
    settings = Settings(
        seeds=tuple(range(command.seeds)),
        max_steps=command.max_steps,
        batch_size=command.batch_size,
        train_fraction=command.train_fraction,
        threshold=command.threshold,
        patience=command.patience,
    )
    if isinstance(command, Train):
        _check_checkpointing(command)
    check_trackers(command.track)
    check_settings(task, settings)
    prepare_folder(command.out)
    return task, settings


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
    task: Task,
    settings: Settings,
    checkpoints: Checkpoints | None,
) -> None:
    console = Console()
    console.print(
        f"[bold]{task.name}[/], two-layer net of width {command.width}, "
        f"{settings.train_fraction:.0%} of all pairs,\nbatches of "
        f"{settings.batch_size}, {len(settings.seeds)} seeds, up to "
        f"{settings.max_steps} steps, on {jax.devices()[0].device_kind}"
    )
    _write(command.out / "config.json", _config(command))
    histories: dict[str, History] = {}

    def make_model(rngs: nnx.Rngs) -> nnx.Module:
        features = task.inputs.shape[1]
        return TwoLayerNet(features, task.classes, width=command.width, rngs=rngs)

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
                    make_model,
                    RECIPES[name].make(),
                    settings,
                    report=report,
                    checkpoints=checkpoints,
                )
            progress.remove_task(bar)
            console.print(f"{name:<18} {_accuracy(history)}  {_time(history)}")
            _write(
                command.out / "summary.csv", summary_csv(histories, settings.threshold)
            )
    title = f"{task.name}, two-layer net, {len(settings.seeds)} seeds"
    picture = figures.race(histories, title=title, threshold=settings.threshold)
    with replacing(command.out / "race.png") as path:
        figures.save(picture, path)
    console.print()
    console.print(summary_table(histories, title=title, threshold=settings.threshold))
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
