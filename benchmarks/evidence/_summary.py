"""The tables that say who is first, by steps and by the clock."""

import math

from benchmarks.evidence._cells import PLATEAU, Cell
from benchmarks.evidence._families import FAMILIES
from benchmarks.evidence._means import family_means, seconds_to_generalize
from benchmarks.evidence._rows import by_family, recipes, rows
from benchmarks.evidence._searched import searched
from benchmarks.evidence._tables import steps_text
from benchmarks.shared import markdown
from egd_optax.grokking.recipes import RECIPES, settings_to_json

ROWS = {row.name: row for row in rows("full")}
FAMILY_ROWS = by_family(ROWS.values())
UNDER_WAY = "under way"  # where not all recipes were raced
# What a reader will ask for.
ASKED_FOR = ("egd", "muon", "columns", "adamw")
# The cells of each row, and the best published result.
Sections = dict[str, tuple[list[Cell], str]]


def summary(found: Sections) -> str:
    """The tables that say who is first."""
    parts = [families(found, "steps"), families(found, "seconds"), overview(found)]
    if by_search := development():
        parts.insert(0, by_search)
    return "\n\n".join(parts)


def front_page(found: Sections) -> str:
    """The short form: the leading methods, and one line a problem."""
    return f"{leaders(found)}\n\n{overview(found)}"


def development() -> str:
    """The methods on the development problems, each with its best setting there."""
    lines = [["family", "steps on its development problems, geometric mean"]]
    for family in FAMILIES:
        ranked = [
            f"`{line['optimizer']}` {_number(float(line['score']))}"
            for line in searched(family)
        ]
        if ranked:
            lines.append([family, ", ".join(ranked)])
    return markdown(lines) if len(lines) > 1 else ""


def overview(sections: Sections) -> str:
    """Who was first, and the methods that a reader will ask for; one line a problem."""
    seconds = seconds_to_generalize(cells_of(sections))
    head = ["problem", "published", "first by steps", *(f"`{n}`" for n in ASKED_FOR)]
    lines = [[*head, "first by the clock", "steps of `sgd`"]]
    for name, (cells, published) in sections.items():
        if name.endswith(PLATEAU):
            continue
        found = {cell.recipe: cell for cell in cells}
        steps = {n: c.crossing("first").median for n, c in found.items()}
        complete = is_complete(name, sections)
        lines.append(
            [
                name,
                _in_steps(published, cells[0]),
                soonest(steps) if complete else UNDER_WAY,
                *(
                    steps_text(found[n], "first") if n in found else "not run"
                    for n in ASKED_FOR
                ),
                _soonest_by_the_clock(
                    {
                        n: seconds.get((name, n), math.nan)
                        for n, median in steps.items()
                        if math.isfinite(median)
                    }
                )
                if complete
                else UNDER_WAY,
                _plateau(name, sections),
            ]
        )
    return markdown(lines)


def soonest(found: dict[str, float], unit: str = "") -> str:
    """All that share the least value, and it."""
    least = min(found.values(), default=math.inf)
    if math.isinf(least):
        return "–"
    names = [f"`{name}`" for name in sorted(found) if found[name] == least]
    return f"{', '.join(names)}: {_number(least)}{unit}"


def _soonest_by_the_clock(found: dict[str, float]) -> str:
    """Among those that generalize, if all of them were timed."""
    if any(map(math.isnan, found.values())):
        return "to be timed"
    return soonest(found, unit=" s")


def _in_steps(published: str, cell: Cell) -> str:
    """What is given in epochs can be set beside the rest."""
    number, unit = published.split(maxsplit=1)
    if unit != "epochs":
        return published
    return f"{int(number) * cell.record['steps_per_epoch']} steps ({published})"


def _number(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def leaders(sections: Sections, count: int = 4) -> str:
    """The first methods by steps and by the clock, one line a family."""
    ranked = {kind: _rankings(sections, kind) for kind in ("steps", "seconds")}
    lines = [["family", "first by steps", "first by the clock"]]
    for family, by_steps in ranked["steps"].items():
        by_clock = ranked["seconds"][family]
        under_way = "" if _all_raced(family, sections) else f" ({UNDER_WAY})"
        lines.append(
            [
                family,
                ", ".join(by_steps[:count]) + under_way,
                ", ".join(f"{each} s" for each in by_clock[:count]) or "to be timed",
            ]
        )
    return markdown(lines)


def families(sections: Sections, kind: str) -> str:
    """The methods of each family in the order of their means, one line a family."""
    cells = cells_of(sections)
    lines = [["family", "tuned", f"{kind}, geometric mean over its problems"]]
    for family, ranked in _rankings(sections, kind).items():
        tuned = "alike" if is_on_equal_terms(family, cells) else "not yet alike"
        if not _all_raced(family, sections):
            tuned += f", races {UNDER_WAY}"
        lines.append([family, tuned, ", ".join(ranked) or "to be timed"])
    return markdown(lines)


def _rankings(sections: Sections, kind: str) -> dict[str, list[str]]:
    """Those that solved all problems of a family, with their means; nothing where not
    all of them were timed.
    """
    cells = cells_of(sections)
    means = family_means(ROWS.values(), cells, seconds_to_generalize(cells))
    rankings = {}
    for family, found in means.items():
        reached = {n: getattr(mean, kind) for n, mean in found.items()}
        solved = [n for n, mean in found.items() if math.isfinite(mean.steps)]
        timed = all(math.isfinite(reached[n]) for n in solved)
        ranked = sorted(solved if timed else [], key=lambda n: reached[n])
        rankings[family] = [f"`{n}` {_number(reached[n])}" for n in ranked]
    return rankings


def _all_raced(family: str, sections: Sections) -> bool:
    return all(is_complete(name, sections) for name in FAMILY_ROWS[family])


def cells_of(sections: Sections) -> dict[str, list[Cell]]:
    """The cells of each row alone."""
    return {name: found for name, (found, _) in sections.items()}


def is_complete(row: str, sections: Sections) -> bool:
    """Whether all recipes of a row were raced."""
    cells, _ = sections.get(row, ([], ""))
    return {cell.recipe for cell in cells} >= set(recipes("full", ROWS[row]))


def is_on_equal_terms(family: str, cells: dict[str, list[Cell]]) -> bool:
    """Whether the family was searched, and raced with what the search found."""
    if not searched(family):
        return False
    tuned = [
        (cell, RECIPES[cell.recipe].settings[family])
        for name in FAMILY_ROWS[family]
        for cell in cells.get(name, ())
        if RECIPES[cell.recipe].space
    ]
    return all(
        cell.record["question"]["recipe"] == settings_to_json(settings)
        for cell, settings in tuned
    )


def _plateau(row: str, sections: Sections) -> str:
    """When the plain optimizer of the paper generalizes."""
    if ROWS[row].plateau is None:
        return "–"
    if row + PLATEAU not in sections:
        return "not run"
    (cell,), _ = sections[row + PLATEAU]
    return steps_text(cell, "first")
