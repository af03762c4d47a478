import numpy as np

from benchmarks import charts
from egd_optax.grokking import figures
from egd_optax.grokking.training.history import History


def texts(axes):
    return [text.get_text() for text in axes.texts]


def test_rankings_put_the_soonest_on_top_and_say_who_did_not_get_there():
    figure = charts.rankings(
        {
            "one": {"sgd": np.inf, "adam": 300.0, "egd": 20.0, "muon": np.inf},
            "two": {"egd": 0.25},
        },
        x_label="steps",
        beyond={"one": {"sgd": 61000.0}},
    )
    one, two, unused = figure.axes
    assert [label.get_text() for label in one.get_yticklabels()] == [
        "egd",
        "adam",
        "sgd",
        "muon",
    ]
    assert texts(one) == ["20", "300", "61,000, beyond the budget", _NEVER]
    assert [bar.get_width() for bar in one.patches] == [20, 300]
    assert one.get_ylim()[0] > one.get_ylim()[1]
    assert texts(two) == ["0.25"]
    assert not unused.axison


_NEVER = "not within the budget"


def test_the_first_five_and_our_own_are_in_colour_and_named_in_their_order():
    def history(step):
        steps = np.arange(1, 21)
        accuracy = (steps >= step).astype(float)[:, None]
        metrics = dict.fromkeys(("train_accuracy", "test_accuracy"), accuracy)
        return History((0,), steps, 1, metrics)

    names = ["a", "b", "c", "d", "e", "f", "g", "egd"]
    histories = {name: history(place + 2) for place, name in enumerate(names)}
    axes = figures.race(histories, title="", threshold=0.95).axes[0]
    *ends, _ = axes.texts
    assert [end.get_text().split(":")[0] for end in ends] == names
    colors = [end.arrow_patch.get_edgecolor()[:3] for end in ends]
    coloured = [*colors[:5], colors[-1]]
    assert len(set(coloured)) == 6
    grey = colors[5]
    assert colors[6] == grey and grey[0] == grey[1] == grey[2]


def test_a_race_of_thinned_histories_shows_the_true_crossings():
    history = History(
        seeds=(0,),
        steps=np.array([10, 40]),
        steps_per_epoch=10,
        metrics={
            "train_accuracy": np.array([[0.5], [1.0]]),
            "test_accuracy": np.array([[0.1], [1.0]]),
        },
    )

    def labels(**keywords):
        figure = figures.race({"egd": history}, title="", threshold=0.95, **keywords)
        return texts(figure.axes[0])[:-1]

    assert labels() == ["egd: 40"]
    assert labels(crossings={"egd": 20.0}) == ["egd: 20"]
    assert labels(crossings={"egd": np.inf}) == ["egd: not within 40"]
