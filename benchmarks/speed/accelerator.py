"""Everything that a GPU or TPU is to be asked, the most important first.

    make accelerator  # some eight minutes on one GPU
    python benchmarks/speed/accelerator.py --quick  # a test of this script

Each question is a process of its own with a time limit, and leaves its table as soon as
it is answered, so that a machine that is taken away in the middle leaves what it has
done. Tables and logs go to results/accelerator/DEVICE/, and what was asked, and how it
ended, to accelerator.csv there.
"""

import dataclasses
import os
import re
import subprocess
import sys
import time
from pathlib import Path

import jax
import tyro

from benchmarks.shared import fail, report

ROOT = Path(__file__).parents[2]
SHAPES = "97x512", "64x128x512", "24x1024x4096", "24x1024x1024", "12x768x3072"
STEPS = "adamw", "muon", "egd", "egd by newton_schulz 5 bf16"


@dataclasses.dataclass(frozen=True)
class Options:
    """Asks an accelerator all questions."""

    quick: bool = False
    """Every question at its smallest, on whatever device there is."""
    out: Path = Path(__file__).parent / "results" / "accelerator"
    """Folder for the folder of the device."""


@dataclasses.dataclass(frozen=True)
class Question:
    """A process and the seconds it may take."""

    name: str
    command: tuple[str, ...]
    limit: int


def questions(folder: Path, quick: bool) -> list[Question]:
    """What is asked, the most important first."""

    def script(name: str, *arguments: str) -> tuple[str, ...]:
        every = "--out", str(folder), *(("--quick",) if quick else ())
        return (f"benchmarks/{name}.py", *every, *arguments)

    # Seeds side by side on the net, then on the transformer, to tables of their own.
    counts = "--repeats", "1", "--counts", "1", "8", "32", "128"
    tune = (
        *("-m", "egd_optax.grokking.cli", "tune", "addition", "--optimizers", "egd"),
        *("--modulus", "37" if quick else "83", "--trials", "2" if quick else "64"),
        *("--max-steps", "18" if quick else "600", "--seeds", "1"),
        *("--out", str(folder / "tune")),
    )
    # What a device's plugin warns of is no fault of ours.
    lenient = "-o", "filterwarnings=default", "-p", "no:cacheprovider"
    tests = "-m", "pytest", "-q", *lenient, "tests/test_on_device.py"
    whitening = "--every-method", "--max-seconds", "5", "--shapes", *SHAPES
    steps = "--max-seconds", "20", "--width", "768", "--layers", "12"
    return [
        Question("numerical tests", tests, 120),
        Question("whitening", script("speed/whitening", *whitening), 150),
        Question(
            "training steps",
            script("speed/overhead", *steps, "--optimizers", *STEPS),
            150,
        ),
        Question("seeds of the net", script("speed/sweep", *counts), 90),
        Question(
            "seeds of the transformer",
            script("speed/sweep", *counts, "--model", "transformer"),
            150,
        ),
        Question("64 trials of a search", tune, 90),
        Question("a row of the race", script("evidence/race", "--rows", "add-97"), 90),
    ]


def answer(question: Question, log: Path) -> dict[str, object]:
    """Runs it; its output goes to a file."""
    # Each process takes the memory that it needs, and no more: they are many.
    environment = os.environ | {
        "PYTHONPATH": str(ROOT),
        "XLA_PYTHON_CLIENT_PREALLOCATE": "false",
    }
    start = time.perf_counter()
    with log.open("w") as file:
        try:
            status = subprocess.run(
                [sys.executable, *question.command],
                stdout=file,
                stderr=subprocess.STDOUT,
                timeout=question.limit,
                cwd=ROOT,
                env=environment,
                check=False,
            ).returncode
        except subprocess.TimeoutExpired:
            status = None
    ended = {0: "answered", None: "out of time"}
    return {
        "question": question.name,
        "ended": ended.get(status, f"exit status {status}"),
        "seconds": f"{time.perf_counter() - start:.0f}",
        "log": log.name,
    }


def main(options: Options) -> None:
    device = re.sub(r"\W+", "-", jax.devices()[0].device_kind.lower()).strip("-")
    folder = options.out.resolve() / device
    folder.mkdir(parents=True, exist_ok=True)
    rows: list[dict[str, object]] = []
    for number, question in enumerate(questions(folder, options.quick)):
        print(f"{question.name}, {question.limit} s at most ...", flush=True)
        name = question.name.replace(" ", "-")
        rows.append(answer(question, folder / f"{number}-{name}.log"))
        print(f"  {rows[-1]['ended']} after {rows[-1]['seconds']} s", flush=True)
    note = "each question a process of its own"
    report(rows, options.out / "accelerator.csv", quick=options.quick, note=note)
    if any(row["ended"] != "answered" for row in rows):
        fail("accelerator", f"not all was answered; logs are in {folder}", status=1)


if __name__ == "__main__":
    main(tyro.cli(Options))
