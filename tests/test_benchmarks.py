import dataclasses
import subprocess
import sys
from pathlib import Path

import pytest

from egd_optax.grokking.problems import modular

BENCHMARKS = Path(__file__).parent.parent / "benchmarks"


@pytest.mark.slow
@pytest.mark.parametrize(
    "script", sorted(path.name for path in BENCHMARKS.glob("[!_]*.py"))
)
def test_every_benchmark_runs_quickly(script, tmp_path):
    command = [sys.executable, BENCHMARKS / script, "--quick", "--out", tmp_path]
    subprocess.run(command, check=True, capture_output=True, text=True)
    (result,) = tmp_path.glob("*.csv")
    assert len(result.read_text().splitlines()) > 2


def test_a_finished_cell_is_read_and_not_run_again(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(BENCHMARKS)
    import _cells

    problem = modular("addition", 7, width=16)
    settings = dataclasses.replace(
        problem.settings, seeds=(0, 1), max_steps=9, batch_size=8
    )
    problem = dataclasses.replace(problem, settings=settings)

    def cell(problem):
        return _cells.run_cell(tmp_path, "row", "sgd", problem, lambda history: None)

    first = cell(problem)

    def refuse(*arguments, **keywords):
        raise AssertionError("run again")

    monkeypatch.setattr(_cells, "train", refuse)
    again = cell(problem)
    assert again == first
    assert again.record["steps_run"] == 9
    assert again.history().metrics["test_accuracy"].shape == (3, 2)
    # Another question is another cell.
    other = dataclasses.replace(
        problem, settings=dataclasses.replace(settings, max_steps=6)
    )
    with pytest.raises(AssertionError, match="run again"):
        cell(other)


def test_the_page_of_results_is_what_the_results_say(monkeypatch):
    monkeypatch.syspath_prepend(BENCHMARKS)
    import _results_page

    page = BENCHMARKS.parent / "docs" / "results.md"
    assert page.read_text() == _results_page.page(), (
        "run: python benchmarks/_results_page.py"
    )
