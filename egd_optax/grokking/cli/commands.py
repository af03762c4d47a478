"""What the commands do, and what they say when it does not work out."""

import contextlib
import dataclasses
import io
import json
import os
import platform
import shlex
import sys
import warnings
from collections.abc import Sequence
from importlib.metadata import version
from typing import NoReturn

import jax
from rich.console import Console
from rich.markup import escape

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
from egd_optax.grokking.cli.processes import join_other_processes
from egd_optax.grokking.cli.train import train_all
from egd_optax.grokking.cli.tune import search_of, tune
from egd_optax.grokking.cli.usage import in_flags, parse
from egd_optax.grokking.files import (
    in_one_line,
    prepare_folder,
    reserved,
    write_text,
)
from egd_optax.grokking.finished import read_run
from egd_optax.grokking.phases import Grid
from egd_optax.grokking.report import write_report
from egd_optax.grokking.search.ledger import LedgerError
from egd_optax.grokking.summary import seeds_in_words
from egd_optax.grokking.training.checkpoints import (
    CheckpointError,
    Checkpoints,
    CheckpointWarning,
)
from egd_optax.grokking.training.devices import is_first, side_by_side

# The exit status after a Ctrl-C, as shells have it.
INTERRUPTED = 130


def main() -> None:
    """Runs the command line.

    Exit status: 1 where the disk does not take the files, 2 for what was asked for in
    vain, 130 after an interruption.
    """
    for stream in (sys.stdout, sys.stderr):
        # A dash that the terminal's encoding lacks must not cost a run its table.
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")
    try:
        command = parse(sys.argv[1:])
    except ValueError as error:
        _fail(str(error), 2)
    try:
        if isinstance(command, Report):
            _report(command)
        else:
            _experiment(command)
    except KeyboardInterrupt:
        print(file=sys.stderr)  # ends the line that has the ^C
        _fail(f"interrupted; see {command.out}", INTERRUPTED)


def _experiment(command: Experiment) -> None:
    try:
        if command.keep_compiled:
            keep_compiled()
        if isinstance(command, Tune | Phase):
            side_by_side()
        if command.distributed:
            join_other_processes()
    except ValueError as error:
        _fail(str(error), 2)
    with contextlib.ExitStack() as stack:
        try:
            prepared = prepare(command)
            grids = []
            if isinstance(command, Phase):
                grids = grids_of(command, prepared.names, prepared.problem)
            if is_first():
                prepare_folder(command.out)
                stack.enter_context(reserved(command.out))
            with warnings.catch_warnings(record=True) as caught:
                warnings.simplefilter("always", CheckpointWarning)
                checkpoints = _checkpoints(command)
        except ValueError as error:
            _fail(in_flags(str(error)), 2)
        except OSError as error:
            _fail(in_one_line(error), 1)
        remarks = prepared.found.remarks(prepared.problem)
        if is_first():
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


def _report(command: Report) -> None:
    if not command.folders:
        _fail("report takes folders that race or train left, got none", 2)
    for path in (*command.folders, command.out):
        if not str(path).isprintable():
            _fail(f"report takes printable names, got {str(path)!r}", 2)
    if command.out.name in ("", ".."):
        _fail(f"--out must be a file, got {str(command.out)!r}", 2)
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
    print(f"egd-grok: {message}", file=sys.stderr, flush=True)
    if jax.distributed.is_initialized():
        os._exit(status)  # sys.exit would wait for the others, and they for this one
    sys.exit(status)


def _checkpoints(command: Experiment) -> Checkpoints | None:
    if not isinstance(command, Train) or command.checkpoint_every is None:
        return None
    # Which files are written, where and when changes no number.
    aside = {
        "out",
        "checkpoint_every",
        "resume",
        "track",
        "keep_compiled",
        "distributed",
    }
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
    # A file may be named :sun:.csv.
    console = Console(quiet=not is_first(), emoji=False)
    problem, settings = prepared.problem, prepared.problem.settings
    trained_on = settings.train_fraction * (1 - settings.validation_fraction)
    size = settings.batch_size
    batches = "all of these a step" if size is None else f"batches of {size}"
    share = "" if isinstance(command, Phase) else f" {trained_on:.0%} of all examples,"
    devices = f"{jax.device_count()} × " if jax.process_count() > 1 else ""
    console.print(
        f"[bold]{escape(problem.task.name)}[/], {problem.model_name},{share}\n"
        f"{batches}, {seeds_in_words(len(settings.seeds))}, "
        f"up to {settings.max_steps} steps, on "
        f"{devices}{jax.devices()[0].device_kind}"
    )
    search = search_of(command, problem) if isinstance(command, Tune) else None
    keeps = search or next(iter(grids), None)
    ledger = None
    if is_first():
        # Before anything of another one is lost.
        ledger = keeps.ledger(command.out) if keeps else None
        for grid in grids:
            grid.known(ledger)
        write_text(command.out / "config.json", _config(command, prepared))
    if search is not None:
        tune(command.out, search, ledger, prepared, console)
    elif isinstance(command, Phase):
        run_phase(command.out, grids, ledger, prepared.title, console)
    elif isinstance(command, Training):
        train_all(command, prepared, checkpoints, console)
    # A name of a folder may look like markup.
    console.print(f"Pictures and data: {command.out}/", markup=False)


def _config(command: Experiment, prepared: Prepared) -> str:
    config = {
        "title": prepared.title,
        "threshold": prepared.problem.settings.threshold,
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
