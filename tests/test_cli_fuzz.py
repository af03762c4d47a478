"""Whatever the command line is given, it runs or says in one line why not."""

import subprocess
import sys

import hypothesis
import pytest
from hypothesis import strategies as st

from egd_optax.grokking.cli import commands as cli

WHOLE = (
    *("--modulus", "--bits", "--subset-size", "--secret-seed", "--width", "--seeds"),
    *("--max-steps", "--batch-size", "--patience", "--epochs-per-evaluation"),
    *("--checkpoint-every", "--trials", "--refined", "--draw"),
)
TUNES = ("--trials", "--refined", "--draw", "--validation-fraction")
SHARES = ("--train-fraction", "--threshold", "--validation-fraction")
TEXTS = ("--model", "--optimizer", "--optimizers", "--track", "--settings", "--out")
TASKS = ("addition", "division", "parity")
HUGE = ("1000003", "2147483648", str(10**12), str(10**30), "9" * 4400)
NO_NUMBERS = (
    "many",
    "",
    " ",
    "1.5",
    "1e400",
    "0x10",
    "½",
    "ü",
    "3 4",
    "a\nb",
    "'",
    "\0",
)


class Ran(Exception):  # noqa: N818
    pass


@pytest.fixture
def call(monkeypatch, capsys, tmp_path):
    """Status and standard error of a command line whose training costs nothing."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(cli, "_run", lambda *_: None)
    monkeypatch.setattr(cli, "side_by_side", lambda: None)

    def call(*arguments):
        monkeypatch.setattr(sys, "argv", ["egd-grok", *arguments])
        status = 0
        try:
            cli.main()
        except SystemExit as stop:
            status = stop.code or 0
        return status, capsys.readouterr().err

    return call


def assert_one_line(status, error):
    assert status in (0, 2)
    if status == 2:
        assert error.startswith("egd-grok: ")
        assert error.count("\n") == 1
        assert error.endswith("\n")
        assert len(error) < 600
        assert "Traceback" not in error


fuzzed = hypothesis.settings(
    deadline=None,
    derandomize=True,
    max_examples=60,
    suppress_health_check=[hypothesis.HealthCheck.function_scoped_fixture],
)
# As a process gets its arguments: any bytes but zero, undecodable ones as surrogates.
words = st.binary(max_size=12).map(
    lambda x: x.replace(b"\0", b"").decode("utf8", "surrogateescape")
)
numbers = st.one_of(
    st.integers(-(10**40), 10**40).map(str),
    st.integers(-3, 200).map(str),
    st.floats().map(repr),
    st.sampled_from([*HUGE, *NO_NUMBERS[:-1]]),
)


@fuzzed
@hypothesis.given(st.lists(words, max_size=5))
def test_any_words(call, arguments):
    assert_one_line(*call(*arguments))


@fuzzed
@hypothesis.given(
    st.sampled_from(["race", "train", "tune"]),
    st.sampled_from(TASKS),
    st.lists(
        st.tuples(
            st.sampled_from([*WHOLE, *SHARES, *TEXTS]), st.one_of(numbers, words)
        ),
        max_size=3,
    ),
)
def test_any_values_of_known_options(call, command, task, options):
    words = [word for option in options for word in option]
    assert_one_line(*call(command, task, *words))


@pytest.mark.parametrize("value", NO_NUMBERS)
@pytest.mark.parametrize("flag", [*WHOLE, *SHARES])
def test_no_number_is_named(call, flag, value):
    if flag in SHARES and value in ("1.5", "1e400"):
        value = "nan"
    command = "tune" if flag in TUNES else "train"
    status, error = call(command, "addition", flag, value)
    assert_one_line(status, error)
    assert status == 2
    assert flag in error
    assert repr(value)[1:-1] in error


@pytest.mark.parametrize("value", ["0", "-1", *HUGE])
@pytest.mark.parametrize("flag", WHOLE)
def test_a_number_out_of_range_is_named(call, flag, value):
    task = "addition"
    if flag in ("--bits", "--subset-size", "--secret-seed"):
        task = "parity"
    command = "tune" if flag in TUNES else "train"
    status, error = call(command, task, flag, value)
    assert_one_line(status, error)
    # A seed of a random generator may be any number from zero on.
    fine = flag == "--secret-seed" and value not in ("-1", HUGE[-1])
    fine |= value == HUGE[0] and flag in (
        *("--patience", "--max-steps", "--checkpoint-every", "--draw"),
    )
    fine |= value == "0" and flag in ("--refined", "--draw")
    assert status == (0 if fine else 2)
    if not fine:
        assert flag in error
        assert value[:90] in error


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        ([], "race, train, tune, phase or report"),
        (["raec", "addition"], "'raec'"),
        (["--seeds", "3", "race", "addition"], "'--seeds'"),
        (["race"], "addition"),
        (["race", ""], "''"),
        (["race", "addition", "division"], "'addition division'"),
        (["race", "addition", "--sede", "3"], "'--sede': perhaps --seeds"),
        (["race", "addition", "-x"], "'-x'"),
        (["race", "addition", "--seeds"], "--seeds must be a whole number"),
        (["race", "addition", "--seeds", "--out", "x"], "nothing before '--out'"),
        (["race", "addition", "--seeds=3=4"], "'3=4'"),
        (
            ["race", "addition", "--model", "cnn"],
            "mlp, transformer or one-layer-transformer, got 'cnn'",
        ),
        (["race", "addition", "--optimizers"], "no optimizers"),
        (["race", "addition", "--track", "paper"], "'paper'"),
        (["race", "addition", "--out", "a\nb"], r"--out .* 'a\nb'"),
        (["race", "addition", "--out", "x" * 300], "--out"),
        (["race", "addition", "--out", "file/below"], "file"),
        (["race", "addition", "--resume"], "'--resume'"),
        (["train", "addition", "--resume"], "--resume needs --checkpoint-every"),
        (["train", "addition", "--resume=yes"], "--resume takes no value"),
        (["train", "addition", "--optimizers", "egd"], "perhaps --optimizer"),
        (["train", "addition", "--train-fraction", "nan"], "--train-fraction .* nan"),
        (["train", "addition", "--threshold", "-inf"], "--threshold .* -inf"),
    ],
)
def test_what_is_wrong_is_named(call, tmp_path, arguments, named):
    (tmp_path / "file").write_text("in the way")
    status, error = call(*arguments)
    assert_one_line(status, error)
    assert status == 2
    for part in named.split(" .* "):
        assert part in error
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_too_little_memory_gets_one_line(call, monkeypatch):
    def full(*_):
        raise MemoryError

    monkeypatch.setattr(cli, "_run", full)
    status, error = call("race", "addition")
    assert_one_line(status, error)
    assert "not enough memory" in error


@pytest.mark.parametrize(
    "arguments", [["race", "addition", "--seeds", "many"], ["ra\udcffce"]]
)
def test_as_a_process(arguments, tmp_path):
    answer = subprocess.run(
        [sys.executable, "-m", "egd_optax.grokking.cli", *arguments],
        capture_output=True,
        text=True,
        check=False,
        cwd=tmp_path,
    )
    assert answer.returncode == 2
    assert_one_line(2, answer.stderr)
    assert answer.stdout == ""
    assert not list(tmp_path.iterdir())
