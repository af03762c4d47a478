import json

import numpy as np
import pytest

from egd_optax.grokking.summary import speedup, summary_csv, summary_table
from egd_optax.grokking.training.history import History, to_json_lines


def history(*seeds, steps_per_epoch=2, run_seconds=3.0):
    accuracy = np.array(seeds, float).T
    return History(
        seeds=tuple(range(len(seeds))),
        steps=steps_per_epoch * np.arange(1, len(accuracy) + 1),
        steps_per_epoch=steps_per_epoch,
        metrics={"test_accuracy": accuracy, "test_loss": accuracy},
        run_seconds=run_seconds,
    )


def test_first_and_sustained_crossing():
    h = history([0.1, 0.96, 0.9, 0.97], [0.95, 0.95, 1, 1], [0, 0, 1, 0.9])
    assert list(h.first_crossing().steps) == [4, 2, 6]
    assert h.first_crossing().median == 4
    assert h.first_crossing().range == (2, 6)
    assert h.first_crossing().epochs.median == 2
    assert list(h.sustained_crossing().steps) == [8, 2, np.inf]
    assert list(h.first_crossing(0.99).steps) == [np.inf, 6, 6]


@pytest.mark.parametrize(("reached", "median"), [(3, 2), (2, 2), (1, np.inf)])
def test_the_median_is_infinite_unless_half_get_there(reached, median):
    h = history(*([[1.0]] * reached + [[0.0]] * (3 - reached)))
    assert h.first_crossing().median == median


def test_records_are_json_without_nan():
    h = history([0.5, np.nan], [1, 2])
    lines = to_json_lines(h.records()).splitlines()
    assert json.loads(lines[1]) == {
        "step": 4,
        "epoch": 2.0,
        "test_accuracy": [None, 2.0],
        "test_loss": [None, 2.0],
    }


def test_the_table_says_what_was_not_reached():
    histories = {
        "sgd": history([0, 0, 0, 0]),
        "egd": history([0, 1, 1, 1]),
        "column-norm": history([0, 0, 0, 1]),
    }
    assert speedup("egd", histories, 0.95, "sgd") == ">2.0"
    assert speedup("sgd", histories, 0.95, "sgd") == ""
    histories["sgd"] = history([0, 0, 0, 1])
    assert speedup("egd", histories, 0.95, "sgd") == "2.0"
    histories["sgd"] = history([0, 0, 0, 0])
    header, *rows = summary_csv(histories, 0.95, baseline="sgd").splitlines()
    fields = [dict(zip(header.split(","), row.split(","), strict=True)) for row in rows]
    assert [row["first_steps_median"] for row in fields] == ["", "4.0", "8.0"]
    assert fields[1]["first_epochs_median"] == "2.0"
    assert fields[1]["run_seconds"] == "3.0"
    table = summary_table(histories, title="race", threshold=0.95, baseline="sgd")
    assert list(table.columns[1].cells) == ["not within 8", "4", "8"]
    assert table.columns[-1].header == "vs sgd"
    assert "over 1 seed (" in table.caption and "vs sgd" in table.caption


def test_a_table_without_the_baseline_compares_with_nothing():
    for histories in ({"egd": history([0, 1])}, {"sgd": history([0, 1])}):
        table = summary_table(histories, title="", threshold=0.95, baseline="sgd")
        assert [column.header for column in table.columns][-1] == "seconds"
        assert "vs sgd" not in table.caption
