"""How every benchmark shows and keeps its table, and pages take it up."""

import csv
import os
import platform
import subprocess
import sys
from collections.abc import Iterable, Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import NoReturn

import jax
from rich.console import Console
from rich.table import Table

from egd_optax.grokking.files import replacing


def machine() -> str:
    """Device and versions that a result was measured with."""
    return (
        f"{jax.devices()[0].device_kind}, {os.cpu_count()} cores ({_processor()}), "
        f"{platform.machine()} {platform.system()}, Python "
        f"{platform.python_version()}, jax {version('jax')}"
    )


def commit() -> str:
    """The commit checked out, with a + where files were changed."""
    answer = subprocess.run(
        ["git", "describe", "--always", "--dirty=+", "--exclude=*"],
        capture_output=True,
        text=True,
        cwd=Path(__file__).parent,
        check=False,
    )
    return answer.stdout.strip() or "unknown"


def _processor() -> str:
    """The processor's name where Linux tells it."""
    described = Path("/proc/cpuinfo")
    lines = described.read_text().splitlines() if described.exists() else []
    names = [line.split(":")[1].strip() for line in lines if "model name" in line]
    return names[0] if names else platform.processor() or "unknown processor"


def report(
    rows: Sequence[Mapping[str, object]],
    path: Path,
    *,
    quick: bool,
    note: str,
    measured: str | None = None,
) -> None:
    """Prints the rows as a table and writes them to ``path``.

    A quick run goes to a file of its own: it must not replace a full one. ``measured``
    names machine and commit of a table that is made of an earlier one (None: these).
    """
    if quick:
        path = path.with_stem(f"{path.stem}-quick")
    origin = f"{measured or f'{machine()}, commit {commit()}'}; {note}"
    console = Console(width=110)
    table = Table(*rows[0], caption=origin)
    for row in rows:
        table.add_row(*map(str, row.values()))
    console.print(table)
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as temporary, temporary.open("w", newline="") as file:
        file.write(f"# {origin}\n")
        writer = csv.DictWriter(file, fieldnames=list(rows[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
    console.print(f"written to {path}")


def check_names(
    script: str, kind: str, asked: Iterable[str], known: Iterable[str]
) -> None:
    """Ends the script with one line and exit status 2 at the first unknown name."""
    for name in asked:
        if name not in known:
            fail(script, f"unknown {kind} {name!r}: choose among {', '.join(known)}")


def fail(script: str, message: str, status: int = 2) -> NoReturn:
    """Ends the script with one line on standard error."""
    print(f"{script}: {message}", file=sys.stderr)
    sys.exit(status)


def measured_on(path: Path) -> str:
    """Machine and commit of a table that :func:`report` wrote."""
    with path.open() as file:
        return file.readline().removeprefix("# ").partition(";")[0]


def read_table(path: Path) -> list[dict[str, str]]:
    """The rows of a table that :func:`report` wrote; none, where there is none yet."""
    if not path.exists():
        return []
    _, *lines = path.read_text().splitlines()
    return list(csv.DictReader(lines))


def markdown(lines: Iterable[Iterable[object]]) -> str:
    """A table; the first line is the head."""
    head, *body = ([str(field) for field in line] for line in lines)
    rule = ["---"] * len(head)
    return "\n".join("| " + " | ".join(line) + " |" for line in (head, rule, *body))


def with_part(text: str, name: str, part: str) -> str:
    """A page with its generated part as it is now."""
    marks = f"<!-- {name} -->", f"<!-- end of {name} -->"
    before, rest = text.split(marks[0])
    after = rest.split(marks[1])[1]
    return "\n\n".join([before + marks[0], part, marks[1] + after])
