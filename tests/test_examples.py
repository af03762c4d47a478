"""Every example is short and runs from top to bottom, notebooks included."""

import os
import re
import subprocess
import sys
from pathlib import Path

import jupytext
import nbclient
import pytest

EXAMPLES = Path(__file__).parent.parent / "examples"
SCRIPTS = sorted(EXAMPLES.glob("[0-9]*.py"))
NOTEBOOKS = sorted((EXAMPLES / "notebooks").glob("*.py"))
# In their quick settings the examples spend nearly all of their time in compilation.
FAST = {"OPENBLAS_NUM_THREADS": "1", "JAX_DISABLE_MOST_OPTIMIZATIONS": "true"}


def test_the_examples_are_numbered_and_short():
    numbers = [int(path.name[:2]) for path in SCRIPTS]
    assert numbers == list(range(1, 12))
    for path in SCRIPTS:
        assert len(path.read_text().splitlines()) < 120, path


@pytest.mark.slow
@pytest.mark.parametrize("path", SCRIPTS, ids=lambda path: path.stem)
def test_every_example_runs(path, tmp_path):
    command = [sys.executable, "-W", "error", path, "--quick"]
    answer = subprocess.run(
        command,
        cwd=tmp_path,
        env=os.environ | FAST,
        capture_output=True,
        text=True,
        check=False,
    )
    assert answer.returncode == 0, answer.stderr
    assert answer.stdout
    promised = re.findall(r"# writes (\S+)", path.read_text())
    assert [file.name for file in tmp_path.iterdir()] == promised


@pytest.mark.slow
@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_every_notebook_runs(path, tmp_path, monkeypatch):
    for name, value in (FAST | {"EGD_OPTAX_QUICK": "1"}).items():
        monkeypatch.setenv(name, value)
    notebook = jupytext.read(path)
    assert notebook.cells[0].cell_type == "markdown"
    client = nbclient.NotebookClient(
        notebook, timeout=300, resources={"metadata": {"path": tmp_path}}
    )
    client.execute()
    assert any(
        "image/png" in output.get("data", {})
        for cell in notebook.cells
        for output in cell.get("outputs", [])
    )


def test_there_are_two_notebooks():
    assert [path.stem for path in NOTEBOOKS] == ["gradient_spectrum", "quickstart"]
