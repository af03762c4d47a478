"""What the commands do, and what they say when it does not work out."""

import contextlib
import dataclasses
import json
import platform
import shlex
import sys
import warnings
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import NoReturn

import jax
import numpy as np
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn

from egd_optax.grokking import figures
from egd_optax.grokking.cli.arguments import (
    Experiment,
    Phase,
    Report,
    Train,
    Training,
    Tune,
)
from egd_optax.grokking.cli.compiled import keep_compiled
from egd_optax.grokking.cli.phase import grids_of, run_phase
from egd_optax.grokking.cli.preparation import Prepared, prepare
from egd_optax.grokking.cli.tune import search_of, tune
from egd_optax.grokking.cli.usage import in_flags, parse
from egd_optax.grokking.files import in_one_line, replacing, reserved
from egd_optax.grokking.finished import read_run
from egd_optax.grokking.measures import measures
from egd_optax.grokking.phases import Grid
from egd_optax.grokking.problems.problem import Problem
from egd_optax.grokking.recipes import baseline
from egd_optax.grokking.report import write_report
from egd_optax.grokking.search.ledger import LedgerError
from egd_optax.grokking.summary import seeds_in_words, summary_csv, summary_table
from egd_optax.grokking.tracking import TRACKERS, Tracker
from egd_optax.grokking.training.checkpoints import (
    CheckpointError,
    Checkpoints,
    CheckpointWarning,
)
from egd_optax.grokking.training.devices import side_by_side
from egd_optax.grokking.training.history import History, to_json_lines
from egd_optax.grokking.training.run import train


def main() -> None:
    """Runs the command line.

    Exit status: 1 where the disk does not take the files, 2 for what was asked for in
    vain, 130 after an interruption.
    """
    try:
        command = parse(sys.argv[1:])
    except ValueError as error:
        _fail(str(error), 2)
    if isinstance(command, Report):
        _report(command)
        return
    try:
        if command.keep_compiled:
            keep_compiled()
        if isinstance(command, Tune | Phase):
            side_by_side()
    except ValueError as error:
        _fail(str(error), 2)
    with contextlib.ExitStack() as stack:
        try:
            prepared = prepare(command)
            grids = []
            if isinstance(command, Phase):
                grids = grids_of(command, prepared.names, prepared.problem)
            stack.enter_context(reserved(command.out))
            with warnings.catch_warnings(record=True) as caught:
                warnings.simplefilter("always", CheckpointWarning)
                checkpoints = _checkpoints(command)
        except ValueError as error:
            _fail(in_flags(str(error)), 2)
        except OSError as error:
            _fail(in_one_line(error), 1)
        remarks = prepared.found.remarks(prepared.problem)
        for remark in (*remarks, *(warning.message for warning in caught)):
            print(f"egd-grok: {remark}", file=sys.stderr)
        try:
            _run(command, prepared, grids, checkpoints)
        except (CheckpointError, LedgerError) as error:
            _fail(str(error), 2)
        except OSError as error:
            _fail(in_one_line(error), 1)
        except (MemoryError, jax.errors.JaxRuntimeError) as error:
            if not isinstance(error, MemoryError) and _FULL not in str(error):
                raise
            _fail("not enough memory: try a smaller --width, --modulus or --seeds", 2)
        except KeyboardInterrupt:
            print(file=sys.stderr)  # ends the line that has the ^C
            _fail(f"interrupted; see {command.out}", 130)


def _report(command: Report) -> None:
    if not command.folders:
        _fail("report takes folders that race or train left, got none", 2)
    try:
        runs = [read_run(folder) for folder in command.folders]
        write_report(runs, command.out)
    except ValueError as error:
        _fail(str(error), 2)
    except OSError as error:
        _fail(in_one_line(error), 1)
    print(f"Open {command.out} in a browser.")


# How XLA says it.
_FULL = "RESOURCE_EXHAUSTED"


def _fail(message: str, status: int) -> NoReturn:
    print(f"egd-grok: {message}", file=sys.stderr)
    sys.exit(status)


def _checkpoints(command: Experiment) -> Checkpoints | None:
    if not isinstance(command, Train) or command.checkpoint_every is None:
        return None
    # Which files are written, where and when changes no number.
    aside = {"out", "checkpoint_every", "resume", "track", "keep_compiled"}
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
    prepared: Prepared,
    grids: Sequence[Grid],
    checkpoints: Checkpoints | None,
) -> None:
    console = Console()
    problem, settings = prepared.problem, prepared.problem.settings
    trained_on = settings.train_fraction * (1 - settings.validation_fraction)
    size = settings.batch_size
    batches = "all of these a step" if size is None else f"batches of {size}"
    share = "" if isinstance(command, Phase) else f" {trained_on:.0%} of all examples,"
    console.print(
        f"[bold]{problem.task.name}[/], {problem.model_name},{share}\n{batches}, "
        f"{seeds_in_words(len(settings.seeds))}, up to {settings.max_steps} steps, on "
        f"{jax.devices()[0].device_kind}"
    )
    config = _config(command, problem)
    if isinstance(command, Tune):
        search = search_of(command, problem)
        ledger = search.ledger(command.out)  # before anything of another one is lost
        _write(command.out / "config.json", config)
        tune(command.out, search, ledger, prepared.names, console)
    elif isinstance(command, Phase):
        ledger = grids[0].ledger(command.out)  # likewise
        _write(command.out / "config.json", config)
        run_phase(command.out, grids, ledger, _title(problem), console)
    elif isinstance(command, Training):
        _write(command.out / "config.json", config)
        _train(command, prepared, checkpoints, console)
    # A name of a folder may look like markup.
    console.print(f"Pictures and data: {command.out}/", markup=False)


def _train(
    command: Training,
    prepared: Prepared,
    checkpoints: Checkpoints | None,
    console: Console,
) -> None:
    problem, settings = prepared.problem, prepared.problem.settings
    task = problem.task
    histories: dict[str, History] = {}
    columns = (
        TextColumn("{task.description:<18}"),
        BarColumn(bar_width=24),
        MofNCompleteColumn(),
        TextColumn("{task.fields[accuracy]}"),
    )
    with Progress(*columns, console=console, transient=True) as progress:
        for name in prepared.names:
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
                    prepared.optimizer(name),
                    settings,
                    report=report,
                    checkpoints=checkpoints,
                    measures=measures(command.measures),
                )
            progress.remove_task(bar)
            console.print(f"{name:<18} {_accuracy(history)}  {_time(history)}")
            _write(
                command.out / "summary.csv",
                summary_csv(histories, settings.threshold, baseline=baseline(problem)),
            )
    title = _title(problem)
    picture = figures.race(histories, title=title, threshold=settings.threshold)
    figures.save(picture, command.out / "race.png")
    write_report([read_run(command.out)], command.out / "report.html")
    console.print()
    table = summary_table(
        histories,
        title=title,
        threshold=settings.threshold,
        baseline=baseline(problem),
    )
    console.print(table)


def _title(problem: Problem) -> str:
    seeds = seeds_in_words(len(problem.settings.seeds))
    return f"{problem.task.name}, {problem.model_name}, {seeds}"


def _config(command: Experiment, problem: Problem) -> str:
    config = {
        "title": _title(problem),
        "threshold": problem.settings.threshold,
        "typed": shlex.join(["egd-grok", *sys.argv[1:]]),
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
