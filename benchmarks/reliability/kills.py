"""Training and a race, killed with SIGKILL again and again, against undisturbed ones.

    python benchmarks/reliability/kills.py  # 60 kills, some 5 to 8 minutes on two cores
    python benchmarks/reliability/kills.py --quick  # 3 kills

A third of the kills falls into start-up, a third on any moment after it, and a third
follows the appearance of a half-written file or checkpoint by 0.1 to 100 ms. The same
command then goes on in the same folder; a folder that came to its end is compared, and
the next begins empty. "in writing" counts the kills that left something half written.
"lost" counts checkpoints and cells that were whole before a kill and afterwards were
not there, or not the same. Equal are, bit for bit: all of history.jsonl, race.png and
the arrays of the last checkpoint; the cells without their seconds, and their pictures.
The table goes to results/kills.csv.
"""

import contextlib
import dataclasses
import gzip
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import orbax.checkpoint as ocp
import tyro
from rich.progress import track

from benchmarks.shared import report

# Two seeds of a tiny net, a checkpoint every 2 of 40 evaluations.
TRAIN = (
    *("-m", "egd_optax.grokking.cli", "train", "addition", "--modulus", "7"),
    *("--batch-size", "8", "--width", "16", "--seeds", "2", "--max-steps", "12000"),
    *("--epochs-per-evaluation", "100", "--patience", "99"),
    *("--checkpoint-every", "600", "--resume"),
)
RACE = ("-m", "benchmarks.evidence.race", "--quick")


@dataclasses.dataclass(frozen=True)
class Options:
    """Kills training and a race, and compares what comes of it."""

    quick: bool = False
    """Two kills of training, one of a race."""
    out: Path = Path(__file__).parent / "results"
    """Folder for kills.csv."""


@dataclasses.dataclass(frozen=True)
class Subject:
    """What is killed."""

    name: str
    arguments: tuple[str, ...]
    kept: Callable[[Path], dict[str, Any]]  # what no kill may take away
    result: Callable[[Path], dict[str, bytes]]  # what must be equal in the end

    def start(self, out: Path) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [sys.executable, *self.arguments, "--out", str(out)],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        )


def checkpoints(out: Path) -> dict[str, Any]:
    """How far the latest checkpoint is; those before it are deleted in time."""
    steps = [int(p.name) for p in (out / "checkpoints").glob("*") if p.name.isdecimal()]
    return {str(step): None for step in range(max(steps, default=0) + 1)}


def cells(out: Path) -> dict[str, Any]:
    """Each finished cell, and which file it is."""
    return {
        path.name: (path.stat().st_ino, path.stat().st_mtime_ns)
        for path in out.rglob("*.json.gz")
    }


def training_result(out: Path) -> dict[str, bytes]:
    files = {name: (out / name).read_bytes() for name in ("history.jsonl", "race.png")}
    latest = max((out / "checkpoints").iterdir(), key=lambda path: int(path.name))
    arrays = ocp.StandardCheckpointer().restore(latest.absolute() / "arrays")
    return files | {name: np.asarray(x).tobytes() for name, x in arrays.items()}


def race_result(out: Path) -> dict[str, bytes]:
    found = {
        path.name: path.read_bytes()
        for path in out.rglob("*.png")
        if path.name != "clock.png"  # its axis is seconds
    }
    for path in out.rglob("*.json.gz"):
        record = json.loads(gzip.decompress(path.read_bytes()))
        for name in ("compile_seconds", "run_seconds", "sha256"):
            del record[name]
        found[path.name] = json.dumps(record).encode()
    return found


SUBJECTS = (
    Subject("egd-grok train --resume", TRAIN, checkpoints, training_result),
    Subject("benchmarks/evidence/race.py", RACE, cells, race_result),
)


def unfinished(out: Path) -> dict[str, tuple[int, int]]:
    """What is half written, and which file or folder of that name it is."""
    found = {}
    for folder, folders, files in os.walk(out):
        for path in (Path(folder, name) for name in (*folders, *files)):
            if path.suffix == ".unfinished":
                # It may be finished meanwhile.
                with contextlib.suppress(FileNotFoundError):
                    found[str(path)] = (path.stat().st_ino, path.stat().st_mtime_ns)
    return found


def undisturbed(subject: Subject, out: Path) -> tuple[float, float]:
    """Seconds until the folder is taken, and to the end."""
    start = time.perf_counter()
    process = subject.start(out)
    while process.poll() is None and not any(out.rglob(".lock")):
        time.sleep(0.01)
    taken = time.perf_counter() - start
    finish(process)
    return taken, time.perf_counter() - start


def finish(process: subprocess.Popen[str]) -> None:
    _, errors = process.communicate()
    if process.returncode:
        raise RuntimeError(f"exit status {process.returncode}: {errors}")


def wait_for_writing(process: subprocess.Popen[str], out: Path, skip: int) -> None:
    """Until something is half written for the time after so many."""
    there = unfinished(out).keys()
    while process.poll() is None and skip >= 0:
        before, there = there, unfinished(out).keys()
        skip -= len(there - before)


def moments(
    rng: np.random.Generator, taken: float, end: float
) -> Iterator[Callable[[subprocess.Popen[str], Path], None]]:
    """Functions that return at the moment of a kill, or after the process."""

    def after(seconds: float) -> Callable[[subprocess.Popen[str], Path], None]:
        def wait(process: subprocess.Popen[str], out: Path) -> None:
            limit = time.perf_counter() + seconds
            while process.poll() is None and time.perf_counter() < limit:
                time.sleep(1e-3)

        return wait

    def in_writing(process: subprocess.Popen[str], out: Path) -> None:
        wait_for_writing(process, out, int(rng.integers(6)))
        time.sleep(10 ** rng.uniform(-4, -1))

    while True:
        yield in_writing
        yield after(rng.uniform(taken, end))
        yield in_writing
        yield after(rng.uniform(0, taken))
        yield after(rng.uniform(taken, end))
        yield after(rng.uniform(0, taken))


def measure(subject: Subject, kills: int, folder: Path) -> dict[str, object]:
    start = time.perf_counter()
    (folder / "undisturbed").mkdir()
    taken, end = undisturbed(subject, folder / "undisturbed")
    expected = subject.result(folder / "undisturbed")
    out = folder / "killed"
    counts = dict.fromkeys(("in start-up", "in writing", "restarts", "lost"), 0)
    equal, kept = True, {}
    waits = moments(np.random.default_rng(0), taken, end)
    for _ in track(range(kills), subject.name, transient=True):
        while True:
            counts["restarts"] += out.exists()
            out.mkdir(exist_ok=True)
            before, started = unfinished(out), time.perf_counter()
            process = subject.start(out)
            next(waits)(process, out)
            process.kill()
            seconds = time.perf_counter() - started
            _, errors = process.communicate()
            lost = kept.items() - subject.kept(out).items()
            counts["lost"] += len(lost) or "is damaged" in errors
            kept = subject.kept(out)
            if process.returncode == 0:  # came to its end before
                equal &= subject.result(out) == expected
                shutil.rmtree(out)
                kept = {}
                continue
            if process.returncode > 0:
                raise RuntimeError(f"exit status {process.returncode}: {errors}")
            counts["in start-up"] += seconds < taken
            counts["in writing"] += bool(unfinished(out).items() - before.items())
            break
    counts["restarts"] += 1
    finish(subject.start(out))
    counts["lost"] += len(kept.items() - subject.kept(out).items())
    equal &= subject.result(out) == expected
    return {
        "what": subject.name,
        "kills": kills,
        **counts,
        "results equal": "yes" if equal else "no",
        "seconds": f"{time.perf_counter() - start:.0f}",
    }


def main(options: Options) -> None:
    rows = []
    kills_of_each = (2, 1) if options.quick else (40, 20)
    for subject, kills in zip(SUBJECTS, kills_of_each, strict=True):
        with tempfile.TemporaryDirectory() as folder:
            rows.append(measure(subject, kills, Path(folder)))
    note = "SIGKILL at moments drawn with seed 0"
    report(rows, options.out / "kills.csv", quick=options.quick, note=note)
    if any(row["lost"] or row["results equal"] != "yes" for row in rows):
        sys.exit(1)


if __name__ == "__main__":
    main(tyro.cli(Options))
