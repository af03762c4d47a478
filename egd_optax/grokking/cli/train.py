"""What ``egd-grok train`` and ``egd-grok race`` do."""

import contextlib

import numpy as np
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn

from egd_optax.grokking import figures
from egd_optax.grokking.cli.arguments import Training
from egd_optax.grokking.cli.preparation import Prepared
from egd_optax.grokking.files import write_text
from egd_optax.grokking.finished import read_run
from egd_optax.grokking.measures import measures
from egd_optax.grokking.recipes import baseline
from egd_optax.grokking.report import write_report
from egd_optax.grokking.summary import summary_csv, summary_table
from egd_optax.grokking.tracking import TRACKERS, Tracker
from egd_optax.grokking.training.checkpoints import Checkpoints
from egd_optax.grokking.training.devices import is_first
from egd_optax.grokking.training.history import History, to_json_lines
from egd_optax.grokking.training.run import train


def train_all(
    command: Training,
    prepared: Prepared,
    checkpoints: Checkpoints | None,
    console: Console,
) -> None:
    """Trains with each of the optimizers, and writes what came of it.

    Raises:
      CheckpointError: what is there cannot be gone on from.
      OSError: the disk does not take the files.
    """
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
                if is_first()
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
                write_text(command.out / "history.jsonl", to_json_lines(lines))
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
            if not is_first():
                continue
            console.print(f"{name:<18} {_accuracy(history)}  {_time(history)}")
            write_text(
                command.out / "summary.csv",
                summary_csv(histories, settings.threshold, baseline=baseline(problem)),
            )
    if not is_first():
        return
    picture = figures.race(
        histories, title=prepared.title, threshold=settings.threshold
    )
    figures.save(picture, command.out / "race.png")
    write_report([read_run(command.out)], command.out / "report.html")
    console.print()
    table = summary_table(
        histories,
        title=prepared.title,
        threshold=settings.threshold,
        baseline=baseline(problem),
    )
    console.print(table)


def _accuracy(history: History) -> str:
    train, test = (
        100 * np.median(history.final(f"{part}_accuracy")) for part in ("train", "test")
    )
    return f"train {train:5.1f} %  test {test:5.1f} %"


def _time(history: History) -> str:
    return f"{history.steps[-1]:>6} steps in {history.run_seconds:.0f} s"
