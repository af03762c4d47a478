"""One page of finished runs that opens anywhere: curves, measures, table, commands."""

import html
import math
from collections.abc import Iterable, Sequence
from importlib import resources
from pathlib import Path
from string import Template

import numpy as np
from plotly.graph_objects import Figure, Scatter
from plotly.subplots import make_subplots

from egd_optax.grokking.figures import COLORS, GREY, OWN
from egd_optax.grokking.files import write_text
from egd_optax.grokking.finished import Run
from egd_optax.grokking.training.history import History

_DASHES = ("solid", "dash", "dot", "dashdot", "longdash", "longdashdot")
_MEDIAN = "median"
_COLUMNS = {
    "optimizer": "optimizer",
    "first_steps_median": "steps, first",
    "sustained_steps_median": "sustained",
    "final_test_accuracy_median": "final",
    "steps_run": "steps run",
    "run_seconds": "seconds",
    "compile_seconds": "compilation",
}


def write_report(runs: Sequence[Run], path: Path) -> None:
    """Writes the page; it needs no network and no other file.

    Raises:
      OSError: the disk does not take it; a page that was there stays.
    """
    write_text(path, page(runs))


def page(runs: Sequence[Run]) -> str:
    """The page as HTML: all lines of all runs on the same axes."""
    lines = _lines(runs)
    colors = {name: _color(name, place) for place, name in enumerate(lines)}
    seeds = sorted({seed for history in lines.values() for seed in history.seeds})
    panels = _panels(lines)
    title = "; ".join(dict.fromkeys(run.title for run in runs))
    template = resources.files("egd_optax.grokking") / "report.html"
    figure = _figure(lines, colors, panels, {run.threshold for run in runs})
    return Template(template.read_text(encoding="utf-8")).substitute(
        title=html.escape(title),
        controls=_controls(colors, seeds),
        figure=figure.to_html(
            full_html=False,
            include_plotlyjs=True,
            div_id="curves",
            config={"displaylogo": False, "responsive": True},
            post_script=_SWITCH.replace("PANELS", str(len(panels))),
        ),
        legend="Accuracy and loss: test solid, training broken, validation dotted. "
        "Thick: the median over the seeds. Point at a curve for its values.",
        tables="\n".join(map(_table, runs)),
    )


def _lines(runs: Sequence[Run]) -> dict[str, History]:
    """A name for each optimizer of each run, unlike all others."""
    if len(runs) == 1:
        return dict(runs[0].histories)
    folders = dict.fromkeys(run.folder.resolve() for run in runs)
    names = {folder: _unlike(folder, folders) for folder in folders}
    return {
        f"{names[run.folder.resolve()]}: {name}": history
        for run in runs
        for name, history in run.histories.items()
    }


def _unlike(folder: Path, others: Iterable[Path]) -> str:
    """The end of its path, as short as no other folder ends."""
    parts = folder.parts
    for count in range(1, len(parts)):
        end = parts[-count:]
        if sum(other.parts[-count:] == end for other in others) == 1:
            return "/".join(end)
    return str(folder)


def _panels(lines: dict[str, History]) -> dict[str, list[str]]:
    """Metrics that share an axis: accuracy, loss, and each measure."""
    panels: dict[str, list[str]] = {"accuracy": [], "loss": []}
    for history in lines.values():
        for metric in history.metrics:
            part, _, kind = metric.rpartition("_")
            known = part in ("train", "validation", "test") and kind in panels
            names = panels.setdefault(kind if known else metric.partition("/")[0], [])
            if metric not in names:
                names.append(metric)
    return {kind: sorted(names) for kind, names in panels.items()}


def _figure(
    lines: dict[str, History],
    colors: dict[str, str],
    panels: dict[str, list[str]],
    thresholds: set[float],
) -> Figure:
    figure = make_subplots(
        rows=len(panels), shared_xaxes=True, vertical_spacing=0.12 / len(panels)
    )
    for row, (kind, metrics) in enumerate(panels.items(), 1):
        values = []
        for place, metric in enumerate(metrics):
            for name, history in lines.items():
                if metric not in history.metrics:
                    continue
                found = history.metrics[metric] * (100 if kind == "accuracy" else 1)
                values.append(found)
                for trace in _traces(name, metric, history, found):
                    trace.line.color = colors[name]
                    trace.line.dash = _dash(metric, place)
                    figure.add_trace(trace, row=row, col=1)
        if kind not in ("accuracy", "loss") and len(metrics) > 1:
            figure.add_annotation(text=_key(metrics), **_TOP_LEFT, row=row, col=1)
        label = "accuracy in %" if kind == "accuracy" else kind
        scale = "log" if kind != "accuracy" and _spans_decades(values) else "linear"
        figure.update_yaxes(title_text=label, type=scale, row=row, col=1)
    for threshold in thresholds:
        figure.add_hline(100 * threshold, line={"width": 1, "dash": "dot"}, row=1)
    figure.update_xaxes(type="log", showspikes=True, spikethickness=1)
    figure.update_xaxes(title_text="step", row=len(panels), col=1)
    figure.update_layout(
        template="plotly_white",
        showlegend=False,
        height=120 + 240 * len(panels),
        margin={"l": 70, "r": 20, "t": 30, "b": 50},
        hovermode="closest",
    )
    return figure


def _traces(
    name: str, metric: str, history: History, values: np.ndarray
) -> list[Scatter]:
    found = {str(seed): values[:, i] for i, seed in enumerate(history.seeds)}
    middle = np.median(values, axis=1)
    return [
        Scatter(
            x=history.steps,
            # Five digits: a page for a browser, not the record of the run.
            y=[float(f"{y:.5g}") if math.isfinite(y) else None for y in curve],
            mode="lines",
            line={"width": 2.4 if which == _MEDIAN else 0.9},
            opacity=1 if which == _MEDIAN else 0.6,
            visible=which == _MEDIAN,
            meta={"line": name, "seed": which},
            hovertemplate=f"{html.escape(name)}, {html.escape(metric)}, "
            f"{'median' if which == _MEDIAN else f'seed {which}'}"
            "<br>step %{x}: %{y}<extra></extra>",
        )
        for which, curve in [*found.items(), (_MEDIAN, middle)]
    ]


# In front of the curves, at the upper edge of a panel.
_TOP_LEFT = {
    "xref": "x domain",
    "yref": "y domain",
    "x": 0,
    "y": 1.02,
    "yanchor": "bottom",
    "showarrow": False,
    "font": {"size": 11, "color": "#555"},
}


def _key(metrics: list[str]) -> str:
    """What the dashes of a measure stand for."""
    return "; ".join(
        f"{html.escape(metric.partition('/')[2])} {_DASHES[place % len(_DASHES)]}"
        for place, metric in enumerate(metrics)
    )


def _dash(metric: str, place: int) -> str:
    parts = {"test": "solid", "train": "dash", "validation": "dot"}
    return parts.get(metric.rpartition("_")[0], _DASHES[place % len(_DASHES)])


def _spans_decades(values: list[np.ndarray]) -> bool:
    every = np.concatenate([x.ravel() for x in values]) if values else np.zeros(1)
    every = every[np.isfinite(every)]
    return bool(every.size and every.min() > 0 and every.max() > 100 * every.min())


def _color(name: str, place: int) -> str:
    if name == OWN:
        return COLORS[0]
    return [*COLORS[1:], "#8C564B", "#17BECF", "#7F7F7F", GREY][place % 9]


def _controls(colors: dict[str, str], seeds: list[int]) -> str:
    lines = [
        f'<label><input type="checkbox" name="line" value="{html.escape(name)}" '
        f'checked><i style="background:{color}"></i>{html.escape(name)}</label>'
        for name, color in colors.items()
    ]
    ways = [
        f'<label><input type="checkbox" name="seed" value="{seed}"'
        f"{' checked' if seed == _MEDIAN else ''}>{seed}</label>"
        for seed in (_MEDIAN, *seeds)
    ]
    axes = [
        f'<label><input type="radio" name="axis" value="{kind}"'
        f"{' checked' if kind == 'log' else ''}>{kind}</label>"
        for kind in ("log", "linear")
    ]
    rows = {"methods": lines, "seeds": ways, "step axis": axes}
    return "\n".join(
        f"<fieldset><legend>{name}</legend>{' '.join(choices)}</fieldset>"
        for name, choices in rows.items()
    )


# What plotly's own legend cannot: a method in all panels, a seed of all methods.
_SWITCH = """
const curves = document.getElementById("curves");
const chosen = name => new Set([...document.querySelectorAll(
  `#controls input[name=${name}]:checked`)].map(box => box.value));
document.getElementById("controls").addEventListener("change", () => {
  const lines = chosen("line"), seeds = chosen("seed"), [axis] = chosen("axis");
  const visible = curves.data.map(
    trace => lines.has(trace.meta.line) && seeds.has(trace.meta.seed));
  const axes = {};
  for (let i = 1; i <= PANELS; i++) axes[`xaxis${i > 1 ? i : ""}.type`] = axis;
  Plotly.update(curves, {visible}, axes);
});
"""


def _table(run: Run) -> str:
    headers = "".join(f"<th>{html.escape(name)}</th>" for name in _COLUMNS.values())
    rows = "".join(
        "<tr>"
        + "".join(f"<td>{html.escape(_shown(row, name))}</td>" for name in _COLUMNS)
        + "</tr>"
        for row in run.summary
    )
    note = (
        f"Steps until {run.threshold:.0%} test accuracy, medians over the seeds; "
        "sustained: never below it again."
    )
    return (
        f"<h2>{html.escape(run.title)}</h2>\n<table><tr>{headers}</tr>{rows}</table>\n"
        f"<p>{note}</p>\n<pre>{html.escape(run.command)}</pre>\n"
        f"<p>{html.escape(run.about)}</p>"
    )


def _shown(row: dict[str, str], name: str) -> str:
    text = row[name]
    if name == "final_test_accuracy_median":
        return f"{100 * float(text):.1f} %"
    if name.endswith("_steps_median"):
        return f"{float(text):.0f}" if text else f"not within {row['steps_run']}"
    return text
