"""The problem and optimizers that a command asks for, before anything is run."""

import dataclasses
import itertools
from typing import Any, NamedTuple

import optax

from egd_optax.grokking.cli.arguments import Experiment, Race, Train, Training, Tune
from egd_optax.grokking.cli.settings_file import SettingsFile, read_settings
from egd_optax.grokking.measures import measures
from egd_optax.grokking.problems.problem import (
    TASKS,
    Problem,
    check_memory,
    from_table,
    mnist_1k,
    modular,
    on_group,
    parity,
    with_settings,
)
from egd_optax.grokking.problems.settings import check_settings
from egd_optax.grokking.problems.tasks import check_range
from egd_optax.grokking.recipes import RECIPES, SHOWN, TUNED, recipes_for
from egd_optax.grokking.summary import seeds_in_words
from egd_optax.grokking.tracking import check_trackers
from egd_optax.grokking.training.run import check_measures


class Prepared(NamedTuple):
    """What a command runs on."""

    problem: Problem
    names: tuple[str, ...]  # of the optimizers
    found: SettingsFile  # by a search; of no optimizer, where none was asked for

    @property
    def title(self) -> str:
        """Of tables and pictures."""
        seeds = seeds_in_words(len(self.problem.settings.seeds))
        return f"{self.problem.task.name}, {self.problem.model_name}, {seeds}"

    def optimizer(self, name: str) -> optax.GradientTransformation:
        """With the settings of the file, or else of its recipe."""
        recipe = RECIPES[name]
        if name in self.found.settings:
            return recipe.build(self.problem, **self.found.settings[name])
        return recipe.make(self.problem)


def prepare(command: Experiment) -> Prepared:
    """All that bad input can break, before anything is run or written."""
    check_range("seeds", command.seeds, at_most=2**20)
    for option in ("out", "group", "table", "settings"):
        name = str(getattr(command, option, ""))
        # Messages, picture and page have it, which cannot show bytes of no character.
        if not name.isprintable():
            raise ValueError(f"{option} must be a printable name, got {name!r}")
    if isinstance(command, Tune):
        _check_search(command)
    problem = problem_of(command)
    found = SettingsFile()
    if isinstance(command, Race) and command.settings is not None:
        found = read_settings(command.settings)
    names = _names(command, problem, tuple(found.settings))
    prepared = Prepared(problem, names, found)
    if isinstance(command, Train):
        _check_checkpointing(command)
    if isinstance(command, Training):
        check_trackers(command.track)
    if isinstance(command, Training) and command.measures:
        check_measures(
            problem.task,
            problem.make_model,
            problem.settings,
            measures(command.measures),
        )
    for name in found.settings:
        prepared.optimizer(name)  # numbers that it does not take
    return prepared


def problem_of(command: Experiment) -> Problem:
    """What is trained, and how.

    Raises:
      ValueError: there is no such problem, or it cannot be trained so.
    """
    problem = _problem(command)
    # A race has others than the search whose settings it runs.
    begin = 100 if isinstance(command, Tune) else 0
    changes: dict[str, Any] = {
        "seeds": tuple(range(begin, begin + command.seeds)),
        "max_steps": command.max_steps,
        "batch_size": command.batch_size,
        "train_fraction": command.train_fraction,
        "threshold": command.threshold,
        "epochs_per_evaluation": command.epochs_per_evaluation,
        "corrupted_labels": command.corrupted_labels,
        "label_noise": command.label_noise,
    }
    if isinstance(command, Training):
        changes["patience"] = command.patience
    if isinstance(command, Tune):
        changes["validation_fraction"] = command.validation_fraction
    changes = {name: value for name, value in changes.items() if value is not None}
    problem = with_settings(problem, **changes)
    if command.full_batch:
        if command.batch_size is not None:
            raise ValueError(
                f"batch_size must not be given with --full-batch, got "
                f"{command.batch_size}"
            )
        problem = with_settings(problem, batch_size=None)
    check_settings(problem.task, problem.settings)
    check_memory(problem)
    return problem


def _names(
    command: Experiment, problem: Problem, in_file: tuple[str, ...]
) -> tuple[str, ...]:
    """Of the optimizers, all of which are offered."""
    offered = recipes_for(problem)
    if isinstance(command, Tune):
        offered = TUNED
    names = command.recipes()
    if names is None:
        names = in_file or tuple(name for name in SHOWN if name in offered)
    offered = tuple(dict.fromkeys((*offered, *in_file)))
    for name in names:
        if name not in offered:
            wrong = f"{problem.task.name} has no optimizer {name!r}"
            if isinstance(command, Tune) and name in RECIPES:
                wrong = f"the optimizer {name!r} has no settings to search"
            raise ValueError(f"{wrong}: choose among {', '.join(offered)}")
    if not names:
        raise ValueError(f"no optimizers: choose among {', '.join(offered)}")
    return tuple(dict.fromkeys(names))


def _check_search(command: Tune) -> None:
    check_range("trials", command.trials, at_most=2**16)
    check_range("refined", command.refined, at_least=0, at_most=2**16)
    check_range("draw", command.draw, at_least=0)
    if not 0 <= command.validation_fraction < 1:
        raise ValueError(
            f"validation_fraction must lie in [0, 1), got {command.validation_fraction}"
        )


# The options that say which problem of its kind a task is; of others it has the model.
_OF_TASK = {
    "parity": ("bits", "subset_size", "secret_seed"),
    "mnist": (),
    "group": ("group", "word", "model"),
    "table": ("table", "model"),
}
_OF_OPERATIONS = ("modulus", "model")


def has_option(task: str, name: str) -> bool:
    """Whether it says anything of the task."""
    every = {*_OF_OPERATIONS, *itertools.chain(*_OF_TASK.values())}
    return name not in every or name in _OF_TASK.get(task, _OF_OPERATIONS)


def _problem(command: Experiment) -> Problem:
    if command.task in TASKS:
        for field in dataclasses.fields(Experiment):
            value = getattr(command, field.name)
            if value != field.default and not has_option(command.task, field.name):
                raise ValueError(
                    f"{field.name} must not be given for the task {command.task}, got "
                    f"{value}"
                )
    if command.task == "parity":
        return parity(
            command.bits,
            command.subset_size,
            secret_seed=command.secret_seed,
            width=command.width,
        )
    if command.task == "mnist":
        return mnist_1k(width=command.width)
    if command.task not in TASKS:
        raise ValueError(
            f"unknown task {command.task!r}: choose one of {', '.join(TASKS)}"
        )
    kind: dict[str, Any] = {"model": command.model, "width": command.width}
    if command.task == "group":
        return on_group(command.group, command.word, **kind)
    if command.task == "table":
        if command.table is None:
            raise ValueError("the task table needs --table and a file, got none")
        return from_table(command.table, **kind)
    return modular(command.task, command.modulus, **kind)


def _check_checkpointing(command: Train) -> None:
    if command.checkpoint_every is None and command.resume:
        raise ValueError("--resume needs --checkpoint-every, got none")
    if command.checkpoint_every is not None:
        check_range("checkpoint_every", command.checkpoint_every)
