"""The search: trials that stay the same, one program a method, nothing lost."""

import dataclasses
import itertools
import json
import math
import signal
from fractions import Fraction
from types import SimpleNamespace

import numpy as np
import optax
import pytest

from egd_optax.grokking.dimensions import Choice, LogUniform, OneMinus, Or, Whole
from egd_optax.grokking.problems.models import TwoLayerNet
from egd_optax.grokking.problems.problem import modular, parity, with_settings
from egd_optax.grokking.recipes import RECIPES
from egd_optax.grokking.search import runs, search
from egd_optax.grokking.search.interruption import deferred_interruption
from egd_optax.grokking.search.ledger import Ledger, LedgerError
from egd_optax.grokking.search.search import Search
from egd_optax.grokking.search.trials import Trial, near, settings_at, spread_out
from egd_optax.grokking.search.tunability import tunability
from egd_optax.grokking.spaces import SHARED, SPACES, space_of
from egd_optax.grokking.training.run import train

PROBLEM = with_settings(
    modular("addition", 7, width=16),
    **{"batch_size": 8, "max_steps": 60, "seeds": (0, 1), "threshold": 0.15},
)
SEARCH = Search([PROBLEM], trials=5)


def drawn(space, number, seed=0):
    return settings_at(space, spread_out(len(space), number, seed=seed))


def quiet(name, trials):
    pass


# --- What is drawn


@pytest.mark.parametrize(
    ("dimension", "places"),
    [
        (LogUniform(0.01, 1), {0: 0.01, 0.5: 0.1, 1: 1}),
        (OneMinus(LogUniform(0.1, 0.4)), {0: 0.9, 0.5: 0.8, 1: 0.6}),
        (Whole(3, 100), {0: 3, 1: 100}),
        (Choice((4, 16)), {0: 4, 0.49: 4, 0.5: 16, 0.99: 16}),
        (Or(0.0, LogUniform(1, 100), 0.25), {0: 0, 0.24: 0, 0.25: 1, 0.625: 10}),
    ],
)
def test_places_become_values(dimension, places):
    assert {place: dimension.at(place) for place in places} == pytest.approx(places)


@pytest.mark.parametrize("make", [lambda: LogUniform(1, 1), lambda: LogUniform(0, 1)])
def test_a_range_that_is_none_is_refused(make):
    with pytest.raises(ValueError, match="must rise between positive numbers"):
        make()


def test_a_choice_of_nothing_is_refused():
    with pytest.raises(ValueError, match="got none"):
        Choice(())


@pytest.mark.parametrize("name", SPACES)
def test_trials_stay_in_the_space_and_what_is_shared_is_alike(name):
    space = SPACES[name]
    assert list(space)[1 : 1 + len(SHARED)] == list(SHARED)
    ends = {key: (d.at(0.0), d.at(1 - 1e-9)) for key, d in space.items()}
    for number in range(20):
        found = drawn(space, number)
        assert found.keys() == space.keys()
        for key in SHARED:
            assert found[key] == drawn(SPACES["egd"], number)[key]
        for key, value in found.items():
            assert math.isinf(value) or min(0, *ends[key]) <= value
    assert drawn(space, 3) != drawn(space, 3, seed=1)


def test_learning_rates_are_spread_over_three_decades_at_least():
    for name, space in SPACES.items():
        rates = [drawn(space, k)["learning_rate"] for k in range(64)]
        low, high = space["learning_rate"].at(0), space["learning_rate"].at(1)
        assert high / low >= 999, name
        counts, _ = np.histogram(np.log(rates), 6, (math.log(low), math.log(high)))
        assert counts.min() >= 8


@pytest.mark.parametrize("name", SPACES)
def test_a_family_may_have_a_learning_rate_of_its_own(name):
    lower = {"columns", "rows", "frobenius", "momentum"}
    for family, own in {
        "transformer": lower,
        "mnist": {"momentum"},
        "parity": (),
    }.items():
        space = space_of(name, family)
        assert list(space) == list(SPACES[name])
        if name not in own:
            assert space == SPACES[name]
            continue
        rates = space.pop("learning_rate"), SPACES[name]["learning_rate"]
        assert rates[0].low <= rates[1].low / 9
        assert rates[0].high <= rates[1].high
        assert space == {k: v for k, v in SPACES[name].items() if k != "learning_rate"}


def test_a_search_draws_from_the_space_of_its_family(monkeypatch):
    class Runner:
        chunk = 4

        def __init__(self, *_, **__):
            pass

        def __call__(self, settings, seeds, at_most):
            never = np.full(len(settings), math.inf)
            return SimpleNamespace(solved=never, held_out_accuracy=1 / never)

    monkeypatch.setattr(search, "Runner", Runner)
    for problem in (modular("addition", 5, model="transformer"), PROBLEM):
        asked = Search([with_settings(problem, seeds=(0,))], trials=3)
        found = asked.run("columns", None, quiet)
        space = space_of("columns", problem.family)
        assert [trial.settings for trial in found] == [
            settings_at(space, spread_out(len(space), k, seed=0)) for k in range(3)
        ]


def test_places_near_others_are_mostly_near_and_sometimes_far():
    centre = np.array([0.02, 0.5, 0.97] * 4)
    moved = np.array([near(centre, 5, k, seed=0) for k in range(200)])
    assert (moved >= 0).all() and (moved < 1).all()
    distance = abs(moved - centre)
    assert np.mean(distance < 1e-12) == pytest.approx(0.5, abs=0.05)
    assert np.mean(distance < 0.1) > 0.7
    assert np.mean(distance > 0.3) > 0.02
    np.testing.assert_array_equal(near(centre, 5, 7, seed=0), moved[7])
    assert (near(centre, 5, 7, seed=1) != moved[7]).any()


@pytest.mark.parametrize(
    ("dimension", "values", "others"),
    [
        (LogUniform(0.1, 1), [1e-9, 5.0], [0.0, -1.0, math.inf, math.nan]),
        (OneMinus(LogUniform(0.1, 1)), [0.0, 0.999], [1.0, -0.1, math.nan]),
        (Whole(3, 100), [1, 100], [0, 101, 2.5, math.inf, math.nan]),
        (Choice((4, 16)), [4, 16], [5, math.nan]),
        (Or(math.inf, LogUniform(1, 2)), [math.inf, 3.0], [0.0, math.nan]),
    ],
)
def test_what_a_setting_may_be(dimension, values, others):
    assert all(map(dimension.accepts, values))
    assert not any(map(dimension.accepts, others))
    assert dimension.wanted


@pytest.fixture
def sigint():
    """Python's own handler, also where a shell without job control ignores SIGINT."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("sigint")
def test_an_interruption_waits_for_what_is_under_way(capsys):
    done = []
    with pytest.raises(KeyboardInterrupt), deferred_interruption():
        signal.raise_signal(signal.SIGINT)
        done.append(1)
    assert done == [1]
    assert "after the trials under way" in capsys.readouterr().err
    with pytest.raises(KeyboardInterrupt), deferred_interruption():
        signal.raise_signal(signal.SIGINT)
        signal.raise_signal(signal.SIGINT)
        done.append(2)
    assert done == [1]
    with deferred_interruption():
        pass
    with pytest.raises(KeyboardInterrupt):
        signal.raise_signal(signal.SIGINT)


@pytest.mark.usefixtures("sigint")
def test_an_interruption_that_is_ignored_stays_so():
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    with deferred_interruption():
        signal.raise_signal(signal.SIGINT)
    assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN


# --- What it costs to tune


def test_a_mean_counts_every_seed():
    late = Trial("egd", 0, 0, {}, ((100.0, 800.0, 100.0), (math.inf,) * 3), ())
    assert late.mean([1000, 1000]) == pytest.approx(math.sqrt(200 * 2000))
    assert late.score([1000, 1000]) == pytest.approx(math.sqrt(100 * 2000))
    not_run = Trial("egd", 0, 0, {}, ((math.inf,) * 3, ()), ())
    assert not_run.mean([50, 500]) == pytest.approx(math.sqrt(100 * 1000))


def test_the_expected_best_is_that_of_all_subsets(rng):
    scores = rng.uniform(size=6)
    scores[2] = scores[4]
    found = tunability(scores)
    for k in range(1, 7):
        subsets = itertools.combinations(scores, k)
        assert found.expected[k - 1] == pytest.approx(np.mean([*map(min, subsets)]))
    assert (found.low <= found.high).all()
    assert (np.diff(found.expected) <= 1e-12).all()


def test_many_trials_do_not_overflow():
    found = tunability(np.arange(400.0), samples=2)
    exact = [Fraction(400 - k, k + 1) for k in (1, 200, 400)]
    assert found.expected[[0, 199, 399]] == pytest.approx([*map(float, exact)])


# --- How it is run


def test_one_program_serves_all_settings_and_finds_what_training_finds(monkeypatch):
    asked = [drawn(SPACES["columns"], k) for k in range(9)]
    compiled = []
    real = runs.Runner._run
    monkeypatch.setattr(
        runs.Runner, "_run", lambda *args: compiled.append(1) or real(*args)
    )
    found = SEARCH.evaluate("columns", dict(enumerate(asked)), None, quiet)
    # Traced as often as shapes are needed, and compiled once.
    assert len(compiled) == 1
    for trial, settings in zip(found[:3], asked, strict=False):
        problem = with_settings(PROBLEM, patience=None)
        history = train(
            problem.task,
            problem.make_model,
            RECIPES["columns"].build(problem, **settings),
            problem.settings,
        )
        expected = history.first_crossing(0.15).steps
        np.testing.assert_array_equal(trial.steps[0], expected)
    assert any(math.isfinite(x) for trial in found for x in trial.steps[0])
    assert any(math.isinf(x) for trial in found for x in trial.steps[0])


def test_a_run_that_is_no_number_ends_and_is_not_solved():
    settings = drawn(SPACES["momentum"], 0) | {
        "learning_rate": 1e30,
        "shrinkage": 0.0,
        "biases_as_rows": 0,
    }
    recipe = RECIPES["momentum"]
    runner = runs.Runner(PROBLEM, lambda **s: recipe.build(PROBLEM, **s), recipe.space)
    found = runner([settings], [0])
    assert found.ended < 60
    assert math.isinf(found.solved[0])


def test_to_the_end_a_problem_is_solved_by_what_holds(easy):
    problem = with_settings(
        dataclasses.replace(
            PROBLEM,
            task=easy,
            make_model=lambda rngs: TwoLayerNet(14, 2, width=16, rngs=rngs),
        ),
        **{"batch_size": 50, "max_steps": 40, "seeds": (0,), "patience": None},
    )

    def build():
        return optax.sgd(0.5)

    history = train(problem.task, problem.make_model, build(), problem.settings)
    # One that is crossed, and crossed back, and held in the end.
    thresholds = np.unique(history.metrics["test_accuracy"])
    first, held = (
        np.array([float(crossing(t).steps[0]) for t in thresholds])
        for crossing in (history.first_crossing, history.sustained_crossing)
    )
    (place, *_) = np.flatnonzero((first < held) & np.isfinite(held))
    problem = with_settings(problem, threshold=float(thresholds[place]))
    for to_the_end, solved in ((False, first[place]), (True, held[place])):
        runner = runs.Runner(problem, build, (), to_the_end=to_the_end)
        found = runner([{}], [0])
        assert found.solved[0] == solved
        assert found.ended[0] == (40 if to_the_end else solved)
    # And not by what is lost at the end of its budget.
    below = history.metrics["test_accuracy"][:, 0] < thresholds[place]
    fallen = history.steps[below & (history.steps > first[place])][0]
    shorter = with_settings(problem, max_steps=int(fallen))
    found = runs.Runner(shorter, build, (), to_the_end=True)([{}], [0])
    assert np.isinf(found.solved[0])


def test_a_run_that_has_not_memorized_half_at_half_of_its_budget_is_given_up():
    slow = drawn(SPACES["columns"], 0) | {"learning_rate": 1e-5, "shrinkage": 0.0}
    recipe = RECIPES["columns"]
    problem = with_settings(PROBLEM, threshold=1.0)
    runner = runs.Runner(problem, lambda **s: recipe.build(problem, **s), recipe.space)
    fast = slow | {"learning_rate": 0.05, "halving_steps": math.inf, "momentum": 0.9}
    found = runner([slow, fast], [0, 0])
    assert found.train_accuracy[0] < 0.5 < found.train_accuracy[1]
    np.testing.assert_array_equal(found.ended, [30, 60])
    # And one that is beaten already, before that.
    np.testing.assert_array_equal(runner([fast], [0], at_most=10).ended, [9])


def test_what_takes_four_times_the_best_is_given_up(monkeypatch):
    asked = []
    real = runs.Runner.__call__

    def listening(self, settings, seeds, at_most):
        asked.append(at_most)
        return real(self, settings, seeds, at_most)

    monkeypatch.setattr(runs.Runner, "__call__", listening)
    found = dataclasses.replace(SEARCH, refined=1).run("columns", None, quiet)
    best = min(trial.medians[0] for trial in found[:5])
    assert set(asked[:-1]) == {math.inf}
    assert asked[-1] == 4 * best < math.inf
    # On a second problem from the second round on.
    asked.clear()
    monkeypatch.setattr(search, "ROUND", 4)
    found = Search([PROBLEM, PROBLEM], trials=12).run("columns", None, quiet)
    assert len(found) == 12
    assert asked[0] == math.inf
    assert 0 < sum(map(math.isfinite, asked)) < len(asked) - 3


def test_a_problem_after_one_that_is_not_solved_is_not_run():
    hard = with_settings(PROBLEM, max_steps=3, threshold=1.0)
    both = Search([hard, PROBLEM], trials=2)
    for trial in both.run("rows", None, quiet):
        assert trial.steps == ((math.inf, math.inf), ())
        assert trial.score(both.budgets) == pytest.approx(math.sqrt(2 * 3 * 2 * 60))
        assert not trial.is_solved


def test_refined_trials_are_near_the_best_before_their_round(monkeypatch):
    monkeypatch.setattr(search, "ROUND", 2)
    refining = dataclasses.replace(SEARCH, refined=3)
    found = refining.run("columns", None, quiet)
    keys = [trial.key[1:] for trial in found]
    assert keys == [*((0, k) for k in range(5)), (5, 0), (5, 1), (5, 2)]
    assert found[:5] == SEARCH.run("columns", None, quiet)
    space = SPACES["columns"]
    places = [spread_out(len(space), k, seed=0) for k in range(5)]
    for begun, number in ((5, 5), (5, 6), (7, 7)):
        ranks = [trial.rank(SEARCH.budgets) for trial in found[:begun]]
        places.append(near(places[ranks.index(min(ranks))], 5, number - 5, seed=0))
        assert found[number].settings == settings_at(space, places[number])


# --- What is kept


def test_finished_trials_are_kept(tmp_path, monkeypatch):
    whole = SEARCH.run("columns", None, quiet)
    first = dataclasses.replace(SEARCH, trials=2)
    assert first.run("columns", first.ledger(tmp_path), quiet) == whole[:2]
    ran = []
    real = search.Runner.__call__

    def counted(self, settings, seeds, at_most):
        ran.extend(settings)
        return real(self, settings, seeds, at_most)

    monkeypatch.setattr(search.Runner, "__call__", counted)
    assert SEARCH.run("columns", SEARCH.ledger(tmp_path), quiet) == whole
    assert len(ran) == 3 * 2
    # Others go beside it, in the same table.
    SEARCH.run("rows", SEARCH.ledger(tmp_path), quiet)
    ledger = SEARCH.ledger(tmp_path)
    assert [t.optimizer for t in ledger.trials] == ["columns"] * 5 + ["rows"] * 5
    assert ledger.trials[:5] == whole


@pytest.fixture
def ledger(tmp_path):
    made = Ledger(tmp_path, {"draw": 0}, ["one"], [60])
    settings = {"learning_rate": 0.5, "halving_steps": math.inf}
    trials = [
        Trial("egd", 0, 0, settings, ((3.0,),), ((0.96,),)),
        Trial("egd", 7, 1, settings, ((math.inf,),), ((0.0,),)),
    ]
    made.add(trials)
    return made


def test_a_table_is_read_as_it_was_written(ledger, tmp_path):
    again = Ledger(tmp_path, {"draw": 0}, ["one"], [60])
    assert again.trials == ledger.trials
    head, *lines = ledger.path.read_text().splitlines()
    assert head.startswith("# sha256")
    assert lines == [
        "optimizer,refined after,trial,score,steps one,accuracy one,learning_rate,"
        "halving_steps",
        "egd,,0,3.0,3,0.96,0.5,inf",
        "egd,7,1,120.0,inf,0,0.5,inf",
    ]


def test_another_search_is_refused_and_loses_nothing(ledger, tmp_path):
    before = ledger.path.read_bytes()
    with pytest.raises(LedgerError, match="draw is 0 there and 1 here"):
        Ledger(tmp_path, {"draw": 1}, ["one"], [60])
    with pytest.raises(LedgerError, match="other settings for trial 0 of egd"):
        ledger.find("egd", 0, 0, {"learning_rate": 0.7})
    (tmp_path / "search.json").unlink()
    with pytest.raises(LedgerError, match="is of another search"):
        Ledger(tmp_path, {"draw": 0}, ["one"], [60])
    assert ledger.path.read_bytes() == before


def test_damage_is_found(ledger, tmp_path):
    for name in ("trials.csv", "search.json"):
        path = tmp_path / name
        content = path.read_bytes()
        for position in range(0, len(content), 7):
            flipped = bytearray(content)
            flipped[position] ^= 1
            path.write_bytes(flipped)
            with pytest.raises(LedgerError):
                Ledger(tmp_path, {"draw": 0}, ["one"], [60])
        for broken in (b"", b"\xff", b"[]", content[:9]):
            path.write_bytes(broken)
            with pytest.raises(LedgerError, match=name):
                Ledger(tmp_path, {"draw": 0}, ["one"], [60])
        path.write_bytes(content)
    assert Ledger(tmp_path, {"draw": 0}, ["one"], [60]).trials == ledger.trials


def test_the_question_tells_problems_of_one_name_apart():
    asked = [
        json.loads(json.dumps(Search([parity(12, 2, secret_seed=s)]).question()))
        for s in (None, 5)
    ]
    assert asked[0]["problems"][0]["seeds"] == [0, 1, 2]
    assert asked[0] != asked[1]
