"""Start to finish of one command, as a user waits for it: the parts, cold and warm.

    python benchmarks/speed/start.py  # two minutes on two cores
    python benchmarks/speed/start.py --quick

`egd-grok train addition --modulus 97 --seeds 1`, each run a process of its own: first
with an empty cache of compiled programs, then with what that left. "import" is the time
until the command line is there, "compile" is tracing, lowering and compiling, "run" the
steps and evaluations, "rest" the interpreter, the task, pictures and files. Methods
take turns, figures are medians, "processor" is the time of all cores. The table goes to
results/start.csv.
"""

import csv
import dataclasses
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import tyro
from rich.progress import track

from benchmarks.shared import report

IMPORT = "import egd_optax.grokking.cli.commands"


@dataclasses.dataclass(frozen=True)
class Options:
    """Times one command from start to finish."""

    optimizers: tuple[str, ...] = ("egd", "egd-auto", "columns", "adamw")
    """Names of recipes."""
    repeats: int = 3
    """Runs of each, cold and warm."""
    quick: bool = False
    """One optimizer, once, a few steps."""
    out: Path = Path(__file__).parent / "results"
    """Folder for start.csv."""


def timed(command: list[str], cache: Path) -> tuple[float, float]:
    """Seconds of a process by the clock and by its processors."""
    # One cache for this run, wherever other runs have theirs.
    environment = os.environ | {
        "JAX_COMPILATION_CACHE_DIR": str(cache),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
    }
    start, before = time.perf_counter(), resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run(
        command, env=environment, stdout=subprocess.DEVNULL, check=True, text=True
    )
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    processors = sum(
        getattr(after, kind) - getattr(before, kind)
        for kind in ("ru_utime", "ru_stime")
    )
    return time.perf_counter() - start, processors


def parts(optimizer: str, cache: Path, *further: str) -> dict[str, float]:
    """Seconds of the parts of a run with this cache."""
    importing, _ = timed([sys.executable, "-c", IMPORT], cache)
    with tempfile.TemporaryDirectory() as out:
        whole, processors = timed(
            [
                *(sys.executable, "-m", "egd_optax.grokking.cli", "train", "addition"),
                *("--optimizer", optimizer, "--seeds", "1", "--out", out, *further),
            ],
            cache,
        )
        summary = (Path(out) / "summary.csv").read_text()
        (line,) = csv.DictReader(summary.splitlines())
    known = {
        "import": importing,
        "compile": float(line["compile_seconds"]),
        "run": float(line["run_seconds"]),
    }
    rest = whole - sum(known.values())
    return {"whole": whole, **known, "rest": rest, "processor": processors}


def main(options: Options) -> None:
    names, repeats, further = options.optimizers, options.repeats, ["--modulus", "97"]
    if options.quick:
        names, repeats = names[:1], 1
        further = ["--modulus", "23", "--width", "16", "--max-steps", "20"]
        further += ["--batch-size", "64"]
    found: dict[tuple[str, str], list[dict[str, float]]] = {}
    turns = [name for _ in range(repeats) for name in names]
    for name in track(turns, "running", transient=True):
        with tempfile.TemporaryDirectory() as cache:
            for state in ("cold", "warm"):
                measured = parts(name, Path(cache), *further)
                found.setdefault((name, state), []).append(measured)
    rows = [
        {
            "optimizer": name,
            "cache": state,
            **{
                f"{part} s": f"{statistics.median(each[part] for each in runs):.2f}"
                for part in runs[0]
            },
        }
        for (name, state), runs in found.items()
    ]
    note = f"train addition, one seed, medians of {repeats} runs"
    report(rows, options.out / "start.csv", quick=options.quick, note=note)


if __name__ == "__main__":
    main(tyro.cli(Options))
