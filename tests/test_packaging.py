"""What a user gets who installs the package."""

import importlib.metadata
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import egd_optax

ROOT = Path(__file__).parent.parent


def test_the_import_adds_to_optax_nothing_but_the_package_itself():
    # Counted, not timed: what else runs on the machine changes no number of modules.
    program = (
        "import sys, optax, optax.contrib\n"
        "before = set(sys.modules)\n"
        "import egd_optax\n"
        "print(*(set(sys.modules) - before))"
    )
    answer = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    added = answer.stdout.split()
    assert {name.split(".")[0] for name in added} == {"egd_optax"}
    assert len(added) < 50


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
