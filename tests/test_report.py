"""The page of finished runs, opened in a real browser."""

import json
import math
import os
import re
import shutil
import subprocess
import sys

import pytest

from egd_optax.grokking.cli import commands as cli
from egd_optax.grokking.finished import read_run
from egd_optax.grokking.report import page

SMALL = ["--modulus", "7", "--batch-size", "8", "--width", "16", "--max-steps", "9"]
NAMES = ["egd", "sgd"]


def call(monkeypatch, *arguments):
    monkeypatch.setattr(sys, "argv", ["egd-grok", *map(str, arguments)])
    cli.main()


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    # A name that is no HTML.
    folder = tmp_path_factory.mktemp("runs") / "a<b>&'c"
    with pytest.MonkeyPatch.context() as monkeypatch:
        call(
            monkeypatch,
            *("race", "addition", *SMALL, "--seeds", 2, "--out", folder),
            *("--optimizers", *NAMES, "--measures", "weight-norm", "fourier-share"),
        )
    return folder


def browser():
    for name in "chromium", "chromium-browser", "google-chrome":
        if shutil.which(name):
            return name
    if os.getenv("CI"):
        pytest.fail(".ci/run installs a browser, and there is none")
    return pytest.skip("needs Chromium")


def opened(page, tmp_path):
    """The document that a browser makes of it, and what its console says."""
    path = tmp_path / "page.html"
    path.write_text(page, encoding="utf-8")
    flags = ["--headless", "--no-sandbox", "--disable-gpu", "--dump-dom"]
    flags += ["--enable-logging=stderr", "--virtual-time-budget=10000"]
    flags += [f"--user-data-dir={tmp_path / 'profile'}"]
    answer = subprocess.run(
        [browser(), *flags, path.as_uri()],
        capture_output=True,
        text=True,
        check=True,
        timeout=100,
    )
    said = [line for line in answer.stderr.splitlines() if "CONSOLE" in line]
    return answer.stdout, said


@pytest.mark.slow
def test_a_browser_shows_the_curves_and_switches_them(folder, tmp_path):
    text = (folder / "report.html").read_text(encoding="utf-8")
    document, said = opened(text, tmp_path)
    assert not said
    # Medians of test and training: accuracy, loss, five norms, one share.
    panels, names = 4, len(NAMES)
    shown = len(re.findall('class="js-line"', document))
    norms = {key for key in line(folder, 0) if key.startswith("weight-norm")}
    assert shown == names * (2 + 2 + len(norms) + 1)

    switched = """<script>
    const pick = (name, value) =>
      document.querySelector(`#controls [name=${name}][value="${value}"]`).click();
    addEventListener("load", () => setTimeout(() => {
      pick("line", "sgd"); pick("seed", "1"); pick("axis", "linear");
      setTimeout(() => {
        const visible = curves.data.filter(trace => trace.visible === true);
        const axes = Object.entries(curves.layout).filter(
          ([name, axis]) => name.startsWith("xaxis") && axis.type === "linear");
        document.title = JSON.stringify([
          visible.map(trace => trace.meta), axes.length]);
      }, 500);
    }, 500));
    </script></body>"""
    document, said = opened(text.replace("</body>", switched), tmp_path)
    assert not said
    visible, axes = json.loads(re.search("<title>(.*)</title>", document)[1])
    assert len(visible) == shown  # a line less, a seed more
    assert {trace["line"] for trace in visible} == {"egd"}
    assert {trace["seed"] for trace in visible} == {"median", "1"}
    assert axes == panels

    broken = text.replace("</body>", "<script>nothing.there()</script></body>")
    assert opened(broken, tmp_path)[1]


def line(folder, number):
    return json.loads((folder / "history.jsonl").read_text().splitlines()[number])


def test_the_page_has_table_command_and_versions_and_needs_no_network(folder):
    text = (folder / "report.html").read_text(encoding="utf-8")
    body = text[text.rindex("</script>") :]
    for name in NAMES:
        assert f"<td>{name}</td>" in body
    assert "not within 9" in body
    assert "egd-grok race addition --modulus 7" in body
    assert "a&lt;b&gt;&amp;" in body
    assert re.search(r"egd-optax \d.*jax \d.*flax \d", body)
    assert not re.search(r"""<(script|link|img)[^>]+(src|href)=""", text)


def test_a_run_that_is_read_back_is_the_one_that_was_written(folder):
    run = read_run(folder)
    assert [*run.histories] == NAMES
    history = run.histories["sgd"]
    assert history.seeds == (0, 1)
    assert list(history.steps) == [3, 6, 9]
    assert history.steps_per_epoch == 3
    last = line(folder, -1)
    for name, values in history.metrics.items():
        assert list(values[-1]) == last[name]
    assert history.metrics.keys() == last.keys() - {"optimizer", "step", "epoch"}


def test_several_runs_are_side_by_side(folder, tmp_path, monkeypatch, capsys):
    other = tmp_path / "other"
    call(
        monkeypatch,
        *("train", "multiplication", *SMALL, "--seeds", 1, "--out", other),
        *("--optimizer", "adamw"),
    )
    out = tmp_path / "both.html"
    call(monkeypatch, "report", folder, other, "--out", out)
    assert f"Open {out}" in capsys.readouterr().out
    text = out.read_text(encoding="utf-8")
    assert 'value="other: adamw"' in text
    assert "a · b mod 7" in text
    assert text.count("<table>") == 2


def test_folders_of_one_name_are_told_apart(folder, tmp_path):
    for name in ("one", "two"):
        shutil.copytree(folder, tmp_path / name / "run")
    text = page([read_run(tmp_path / name / "run") for name in ("one", "two")])
    for name in ("one", "two"):
        assert text.count(f'value="{name}/run: egd"') == 1


def test_what_was_no_number_leaves_a_gap(folder, tmp_path):
    broken = tmp_path / "broken"
    shutil.copytree(folder, broken)
    path = broken / "history.jsonl"
    records = [json.loads(row) for row in path.read_text().splitlines()]
    for record in records:
        record["test_loss"] = [None, None]
    path.write_text("".join(json.dumps(record) + "\n" for record in records))
    assert '"y":[null,null,null]' in page([read_run(broken)])


def test_folders_without_a_run_are_named(folder, tmp_path, monkeypatch, capsys):
    def refused(*arguments):
        with pytest.raises(SystemExit) as stop:
            call(monkeypatch, "report", *arguments, "--out", tmp_path / "page.html")
        assert stop.value.code == 2
        message = capsys.readouterr().err
        assert message.count("\n") == 1
        return message

    assert "report takes folders" in refused()
    assert "has no finished run of egd-grok race or train" in refused(tmp_path)
    config = json.loads((folder / "config.json").read_text())
    history = (folder / "history.jsonl").read_text()
    summary = (folder / "summary.csv").read_text()
    for number, (name, text) in enumerate(
        [
            ("config.json", "{}"),
            ("config.json", "[" * 100_000),
            ("config.json", json.dumps(config | {"title": 5})),
            ("config.json", json.dumps(config | {"typed": ["x"]})),
            ("config.json", json.dumps(config | {"device": None})),
            ("history.jsonl", '{"optimizer": "egd"}\n'),
            ("config.json", json.dumps(config | {"title": "\udcff"})),
            ("config.json", json.dumps(config | {"threshold": 10**400})),
            ("config.json", json.dumps(config | {"threshold": math.nan})),
            ("history.jsonl", "[" * 100_000),
            ("history.jsonl", re.sub(r'"epoch": [0-9.]+', '"epoch": 0', history)),
            ("history.jsonl", re.sub(r'"step": \d+', '"step": 1.5', history)),
            (
                "history.jsonl",
                re.sub(r"_accuracy\": \[.*?\]", '_accuracy": []', history),
            ),
            ("history.jsonl", re.sub(r'"train_loss": \[.*?\]', '"x": [1]', history)),
            ("history.jsonl", history.replace("train_loss", r"\udcff")),
            ("summary.csv", "optimizer\nadamw\n"),
            ("summary.csv", "optimizer\negd\nsgd\n"),
            ("summary.csv", re.sub(r"\b9\b", "x", summary)),
            ("summary.csv", summary.replace("compile_seconds", "seconds")),
            ("summary.csv", re.sub(r"(,[^,\n]*){4}\n(?=\w|$)", "\n", summary)),
            ("summary.csv", summary.replace("sgd", "s" * 200_000)),
        ]
    ):
        damaged = tmp_path / str(number)
        shutil.copytree(folder, damaged)
        (damaged / name).write_text(text)
        assert f"{damaged / name} is damaged" in refused(folder, damaged)
    assert not (tmp_path / "page.html").exists()
    for out, shown in {"": "'.'", ".": "'.'", "/": "'/'", "..": "'..'"}.items():
        with pytest.raises(SystemExit):
            call(monkeypatch, "report", folder, "--out", out)
        assert f"--out must be a file, got {shown}" in capsys.readouterr().err
    assert r"printable names, got 'a\udcff'" in refused("a\udcff")
