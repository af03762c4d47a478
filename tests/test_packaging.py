"""What a user gets who installs the package."""

import importlib.metadata
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

import egd_optax

ROOT = Path(__file__).parent.parent


def milliseconds(module):
    """Wall time of an import in a process of its own, as Python measures it."""
    # A collection of what optax and JAX made, 30 ms, falls into whatever comes next.
    program = f"import gc, optax; gc.freeze(); import {module}"
    answer = subprocess.run(
        [sys.executable, "-X", "importtime", "-c", program],
        capture_output=True,
        text=True,
        check=True,
    )
    pattern = rf"\|\s*(\d+) \| {module}$"
    (microseconds,) = re.findall(pattern, answer.stderr, re.M)
    return int(microseconds) / 1000


@pytest.mark.slow
def test_the_import_costs_at_most_50_ms_more_than_optax():
    # The least of several: what else runs on the machine only adds to it.
    assert min(milliseconds("egd_optax") for _ in range(5)) <= 50


def test_versions_agree():
    citation = (ROOT / "CITATION.cff").read_text()
    changelog = (ROOT / "CHANGELOG.md").read_text()
    version = egd_optax.__version__
    assert importlib.metadata.version("egd-optax") == version
    assert re.search(r"^version: (.*)$", citation, re.M)[1] == version
    assert re.search(r"^## (\S+)", changelog, re.M)[1] == version
    assert re.fullmatch(r"\d+\.\d+\.\d+", version)


def test_readme_states_the_oldest_versions():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    stated = " ".join((ROOT / "README.md").read_text().split())
    requirements = [
        *project["dependencies"],
        *project["optional-dependencies"]["grokking"],
    ]
    for package in ("jax", "optax", "flax"):
        (oldest,) = (
            r.removeprefix(f"{package}>=")
            for r in requirements
            if r.startswith(f"{package}>=")
        )
        assert f"{package} {oldest}" in stated
