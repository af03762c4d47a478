"""The command line read by tyro, and what is wrong with it in one line."""

import contextlib
import dataclasses
import difflib
import io
import re
import typing
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro

from egd_optax.grokking.cli.arguments import (
    Experiment,
    Phase,
    Race,
    Report,
    Train,
    Tune,
)
from egd_optax.grokking.problems.problem import TASKS

Command = Experiment | Report

_COMMANDS: dict[str, type[Command]] = {
    "race": Race,
    "train": Train,
    "tune": Tune,
    "phase": Phase,
    "report": Report,
}


def parse(arguments: Sequence[str]) -> Command:
    """The command that the arguments of the process ask for.

    Raises:
      ValueError: they ask for none; one line says which of them is wrong, and why.
    """
    said = io.StringIO()
    try:
        with contextlib.redirect_stderr(said):
            return tyro.cli(
                Annotated[Race, tyro.conf.subcommand("race")]
                | Annotated[Train, tyro.conf.subcommand("train")]
                | Annotated[Tune, tyro.conf.subcommand("tune")]
                | Annotated[Phase, tyro.conf.subcommand("phase")]
                | Annotated[Report, tyro.conf.subcommand("report")],
                prog="egd-grok",
                description="Races optimizers on the tasks on which neural networks "
                "grok.",
                args=arguments,
                config=(tyro.conf.OmitSubcommandPrefixes, tyro.conf.OmitArgPrefixes),
            )
    except SystemExit as stop:
        if not stop.code:
            raise
    # tyro says it in a box of many lines, and for a wrong number in terms of Python.
    problem = _problem(list(arguments)) or " ".join(said.getvalue().split())
    raise ValueError(f"{problem} (see egd-grok --help)")


def in_flags(message: str) -> str:
    """An error of the library, its settings named as the command line names them."""
    fields = {
        field.name for kind in _COMMANDS.values() for field in dataclasses.fields(kind)
    }
    # A name of one word may be an ordinary word elsewhere.
    anywhere = "|".join(field for field in fields if "_" in field)
    return re.sub(
        rf"^({'|'.join(fields)})(?= must)|\b({anywhere})\b",
        lambda found: _as_flag(found[0]),
        message,
    )


def _as_flag(field: str) -> str:
    return "--" + field.replace("_", "-")


def _problem(arguments: list[str]) -> str | None:
    """The first thing that is wrong; None for what only tyro can tell."""
    name, *words = arguments or ("",)
    if name not in _COMMANDS:
        choice = _alternatives(_COMMANDS)
        return f"begin with a command, {choice}" + (
            f", not {_shown(name)}" if arguments else ""
        )
    options = typing.get_type_hints(_COMMANDS[name])
    positional = "folders" if name == "report" else "task"
    del options[positional]
    switches = [option for option, kind in options.items() if kind is bool]
    options |= {f"no_{option}": bool for option in switches}
    taken = []
    while words:
        word = words.pop(0)
        flag, equals, value = word.partition("=")
        if not _is_flag(word):
            taken.append(word)
        elif flag not in ("-h", "--help"):
            kind = options.get(flag.removeprefix("--").replace("-", "_"))
            if kind is None:
                return f"unknown option {_shown(flag)}{_nearest(flag, options)}"
            if equals:
                words.insert(0, value)
            problem = _wrong_value(flag, kind, words, given=bool(equals))
            if problem:
                return problem
    if len(taken) == 1 or name == "report":
        return None
    found = f", got {_shown(' '.join(taken))}" if taken else ""
    return f"{name} takes one task out of {', '.join(TASKS)}{found}"


def _is_flag(word: str) -> bool:
    return word.startswith("-") and not _reads(float, word)


def _nearest(flag: str, options: Iterable[str]) -> str:
    near = difflib.get_close_matches(flag, map(_as_flag, options), 1)
    return f": perhaps {near[0]}" if near else ""


def _wrong_value(flag: str, kind: Any, words: list[str], *, given: bool) -> str | None:
    """Takes the option's values off the words, up to one that it cannot be."""
    if kind is bool:
        return f"{flag} takes no value, got {_shown(words[0])}" if given else None
    if typing.get_origin(kind) is tuple or tuple[str, ...] in typing.get_args(kind):
        while words and not _is_flag(words[0]):
            words.pop(0)
        return None
    wanted = _in_words(kind)
    if not words or (not given and _is_flag(words[0])):
        found = f"nothing before {_shown(words[0])}" if words else "nothing"
        return f"{flag} must be {wanted}, got {found}"
    value = words.pop(0)
    choices = typing.get_args(kind) or (kind,)
    fits = value in choices or any(_reads(choice, value) for choice in choices)
    return None if fits else f"{flag} must be {wanted}, got {_shown(value)}"


def _alternatives(names: Iterable[str]) -> str:
    *others, last = names
    return f"{', '.join(others)} or {last}"


def _in_words(kind: Any) -> str:
    words = {int: "a whole number", float: "a number", Path: "a path"}
    if typing.get_origin(kind) is Literal:
        return _alternatives(typing.get_args(kind))
    choices = typing.get_args(kind) or (kind,)
    return next((words[choice] for choice in choices if choice in words), "a name")


def _reads(kind: Any, word: str) -> bool:
    if kind is type(None):
        return word == "None"
    try:
        return isinstance(kind, type) and kind(word) is not None
    except ValueError:
        return False


def _shown(word: str) -> str:
    text = repr(word)
    return text if len(text) <= 100 else f"{text[:100]} …"
