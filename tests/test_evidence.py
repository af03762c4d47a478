"""What the committed tables hold: equal terms, and no claim beyond them."""

import gzip
import json
from collections import Counter

import pytest

from benchmarks.evidence import _searched
from benchmarks.evidence._cells import RESULTS, SUFFIX
from benchmarks.evidence._families import (
    FAMILIES,
    FINAL_SEEDS,
    FINALISTS,
    TO_THE_END,
    final_score,
    finals,
    prolonged,
)
from benchmarks.shared import read_table
from egd_optax.grokking.recipes import RECIPES, TUNED
from egd_optax.grokking.search.trials import settings_at, spread_out
from egd_optax.grokking.spaces import space_of

SEARCHED = [family for family in FAMILIES if _searched.searched(family)]


@pytest.mark.parametrize("family", SEARCHED)
def test_every_method_of_a_family_had_the_same_trials_seeds_and_budget(family):
    search, folder = FAMILIES[family], RESULTS / "search" / family
    trials = read_table(folder / "trials.csv")
    count = search.trials + search.refined
    assert Counter(row["optimizer"] for row in trials) == dict.fromkeys(TUNED, count)
    for name in TUNED:
        keys = [
            (int(row["refined after"] or 0), int(row["trial"]))
            for row in trials
            if row["optimizer"] == name
        ]
        assert keys == [
            *((0, k) for k in range(search.trials)),
            *((search.trials, k) for k in range(search.refined)),
        ]
    # Problems, budgets and seeds, as they are asked for now.
    asked = json.loads((folder / "search.json").read_text())
    assert asked == json.loads(json.dumps(search.question()))
    steps = [key for key in trials[0] if key.startswith("steps ")]
    assert len(steps) == len(search.problems)
    for row in trials:
        assert len(row[steps[0]].split()) == 1
    again = read_table(folder / "finals.csv")
    candidates = trials
    if family in TO_THE_END:
        # What solved all problems was run again, and the finalists are among that.
        longer = read_table(folder / "again.csv")
        solved = [
            row for row in trials if all(row[key] not in ("", "inf") for key in steps)
        ]
        assert Counter(r["optimizer"] for r in longer) == Counter(
            r["optimizer"] for r in solved
        )
        others = {r["optimizer"] for r in trials} - {r["optimizer"] for r in solved}
        candidates = longer + [r for r in trials if r["optimizer"] in others]
        asked = json.loads((folder / "again.json").read_text())
        assert asked == json.loads(json.dumps(prolonged(search).question()))
    distinct = {(r["optimizer"], *(r[key] for key in steps)) for r in candidates}
    assert Counter(row["optimizer"] for row in again) == {
        name: min(count, FINALISTS[family])
        for name, count in Counter(name for name, *_ in distinct).items()
    }
    assert all(len(row[steps[0]].split()) == len(FINAL_SEEDS) for row in again)
    asked = json.loads((folder / "finals.json").read_text())
    assert asked == json.loads(json.dumps(finals(family, search).question()))


@pytest.mark.parametrize("family", SEARCHED)
def test_the_quasi_random_trials_are_those_of_the_declared_space(family):
    search = FAMILIES[family]
    for row in read_table(RESULTS / "search" / family / "trials.csv"):
        number, space = int(row["trial"]), space_of(row["optimizer"], family)
        if not row["refined after"]:
            places = spread_out(len(space), number, seed=search.draw)
            found = {name: float(row[name]) for name in space}
            assert found == settings_at(space, places)


@pytest.mark.parametrize("family", SEARCHED)
def test_recipes_have_the_settings_that_the_finals_chose(family):
    search = finals(family, FAMILIES[family])
    again = search.ledger(RESULTS / "search" / family, "finals").trials

    def score(trial):
        return final_score(family, trial, search.budgets)

    for name in TUNED:
        own = [trial for trial in again if trial.optimizer == name]
        settings = RECIPES[name].settings[family]
        chosen = [trial for trial in own if trial.settings == dict(settings)]
        assert list(map(score, chosen)) == [min(map(score, own))], name


def test_every_committed_cell_is_json_as_all_languages_read_it():
    # Python alone has NaN and Infinity.
    cells = list(RESULTS.parents[1].rglob(f"*{SUFFIX}"))
    assert cells
    for path in cells:
        text = gzip.decompress(path.read_bytes()).decode()
        json.loads(text, parse_constant=lambda name, path=path: pytest.fail(str(path)))
