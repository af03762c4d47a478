"""What the laboratory's scripts make of curves and grids whose answers are known."""

import math

import numpy as np
import pytest

from benchmarks.evidence._cells import Cell
from benchmarks.laboratory.circuits import half_way, lines
from benchmarks.laboratory.laws import PRIMES, law
from egd_optax.grokking.search.trials import Trial

STEPS = np.arange(1, 101)


def test_half_way_is_a_step():
    # From 0 at 20 to 1 at 50.
    curve = np.clip((STEPS - 20) / 30, 0, 1)
    assert half_way(STEPS, curve, 20, loss=False) == 35
    # A loss that falls to e^-8 is half way at e^-4.
    assert half_way(STEPS, np.exp(-8 * curve), 20, loss=True) == 35
    # There and back, it counts when it stays.
    late = np.where(STEPS == 30, 1, STEPS >= 70)
    assert half_way(STEPS, late, 20, loss=False) == 70


def test_what_does_not_move_has_no_half_way():
    noise = np.random.default_rng(0).standard_normal(100)
    assert math.isnan(half_way(STEPS, noise, 20, loss=False))
    assert math.isnan(half_way(STEPS, np.ones(100), 20, loss=False))


@pytest.mark.parametrize(("end", "place"), [(59, "0.525"), (22, "")])
def test_half_way_is_a_place_on_the_plateau(end, place):
    curves = {
        "train_accuracy": STEPS >= 19,
        "test_accuracy": end <= STEPS,
        "test_loss": np.ones(100),
        "key-share": STEPS >= 40,
    }
    table = table_of(curves, [float(end)])
    assert table["key-share"]["half way"] == place
    assert table["test loss"]["half way"] == ""
    assert table["test accuracy"]["half way"] == ("1" if place else "")


def table_of(curves, sustained):
    record = {
        "seeds": list(range(len(sustained))),
        "curve_steps": STEPS.tolist(),
        "steps_per_epoch": 1,
        "sustained": sustained,
        "curves": {
            name: np.transpose(np.atleast_2d(np.asarray(values, float))).tolist()
            for name, values in curves.items()
        },
    }
    untrained = {name: np.zeros(len(sustained)) for name in curves}
    cell = Cell("net", "egd", record)
    return {line["measure"]: line for line in lines(cell, untrained)}


def test_seeds_that_never_generalize_are_left_out():
    learned = np.clip(STEPS / 20, 0, 1)
    curves = {
        "train_accuracy": [learned, learned, np.zeros(100)],
        "test_accuracy": [(STEPS > 60) * 1.0, np.zeros(100), np.zeros(100)],
        "test_loss": [np.exp(-STEPS / 10)] * 3,
        "answer-share": [STEPS / 100, np.zeros(100), np.zeros(100)],
    }
    table = table_of(curves, [61, None, None])
    assert table["seeds that generalized"]["at the end"] == "1 of 3"
    assert table["steps to memorize"]["at the end"] == "19"
    assert table["answer-share"]["at memorization"] == "0.19"
    assert table["answer-share"]["at the end"] == "1"


def test_a_law_is_found_from_steps_rounded_up_to_evaluations():
    alpha, beta, trials, waits = 1.5, 3.0, [], []
    for number, (p, fraction) in enumerate(
        (p, fraction) for p in PRIMES for fraction in (0.3, 0.4, 0.5, 0.6, 0.7)
    ):
        wait = max(int(fraction * p**2) // 512, 1)
        true = 5e4 * p**-alpha * fraction**-beta * np.linspace(0.9, 1.1, 5)
        steps = np.ceil(true / wait) * wait
        steps[-1] = np.inf  # one of five may be late
        settings = {"modulus": float(p), "train_fraction": fraction}
        trials.append(Trial("egd", 0, number, settings, ((1.0,) * 5, tuple(steps)), ()))
        waits.append(wait)
    found = law(trials, np.array(waits))
    for name, exponent in ("α", alpha), ("β", beta):
        best, low, high = map(
            float, found[name].translate(str.maketrans("(–)", "   ")).split()
        )
        assert best == pytest.approx(exponent, abs=0.1)
        assert low <= exponent <= high
    assert 100 < found["draws"] < 1000
    assert law(trials[:3], np.array(waits[:3]))["α"] == "–"
