import csv
import re
from pathlib import Path

import optax

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")


def test_the_code_of_the_readme_runs():
    blocks = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
    assert blocks
    for block in blocks:
        names = {}
        exec(block, names)
        assert isinstance(names["optimizer"], optax.GradientTransformationExtraArgs)


def test_the_table_of_the_readme_is_what_is_printed(capsys):
    (printed,) = re.findall(r"```text\n(.*?)```", README, re.DOTALL)
    (block,) = [
        block
        for block in re.findall(r"```python\n(.*?)```", README, re.DOTALL)
        if "print(" in block
    ]
    exec(block, {})
    assert capsys.readouterr().out == printed


def test_the_first_race_is_the_committed_one():
    written = re.findall(r"^\| `([a-z-]+)` \| (\d[\d–() ]*) \| \d+ /", README, re.M)
    folder = ROOT / "benchmarks" / "evidence" / "results" / "add97"
    with (folder / "summary.csv").open() as file:
        raced = {line["optimizer"]: line for line in csv.DictReader(file)}
    expected = {}
    for name, line in raced.items():
        if line["first_steps_median"]:
            middle, low, high = (
                f"{float(line[f'first_steps_{kind}']):.0f}"
                for kind in ("median", "low", "high")
            )
            span = "" if low == high else f" ({low}–{high})"
            expected[name] = f"{middle}{span}"
    assert dict(written) == expected


def test_what_the_readme_links_to_exists():
    links = re.findall(r"\]\((?!https?:)([^)#]+)\)", README)
    assert links
    for link in links:
        assert (ROOT / link).exists(), link
