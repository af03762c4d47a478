import subprocess
import sys
from pathlib import Path

import pytest

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
