"""The site builds without warnings, and its code runs."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

import egd_optax

ROOT = Path(__file__).parent.parent
DOCS = ROOT / "docs"
PAGES = sorted(DOCS.glob("*.md"))


@pytest.mark.slow
def test_the_site_builds_without_warnings(tmp_path):
    subprocess.run([sys.executable, DOCS / "pictures.py"], check=True)
    command = [sys.executable, "-m", "sphinx", "-W", "--keep-going", "-q"]
    answer = subprocess.run(
        [*command, "-d", tmp_path / "trees", DOCS, tmp_path / "site"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert answer.returncode == 0, answer.stderr
    api = (tmp_path / "site" / "api.html").read_text()
    for name in egd_optax.__all__:
        assert f'id="egd_optax.{name}"' in api


@pytest.mark.parametrize(
    "page", [p for p in PAGES if "```python" in p.read_text()], ids=lambda p: p.stem
)
def test_the_code_of_a_page_runs(page):
    names = {}
    for block in re.findall(r"```python\n(.*?)```", page.read_text(), re.DOTALL):
        exec(block, names)


def test_the_quickstart_lists_every_example():
    listed = re.findall(
        r"^\| `(\d\d_\w+\.py)`", (DOCS / "quickstart.md").read_text(), re.M
    )
    assert listed == sorted(p.name for p in (ROOT / "examples").glob("[0-9]*.py"))
