"""Figures of scores: the best sets with their intervals, and score against size."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import Any

from optlayers.layerset import LayerSet, all_of
from optlayers.report.figure import Figure, chance, hundredths, interval, percent, points, shown
from optlayers.report.theme import BLUE, GREY, INK, ORANGE, axis, layout
from optlayers.results.leaderboard import LeaderboardRow
from optlayers.results.view import StudyView

TOP = 20


def _interval(entries: list[LeaderboardRow]) -> dict[str, Any]:
    """Error bars from score to either end of the interval, in points."""
    return {
        "type": "data",
        "symmetric": False,
        "array": hundredths([e.ci_high - e.score for e in entries]),
        "arrayminus": hundredths([e.score - e.ci_low for e in entries]),
        "thickness": 1.5,
        "width": 0,
    }


def _full(view: StudyView) -> list[LeaderboardRow]:
    return [row for row in view.compared if row.fidelity == "full"]


def best_sets(view: StudyView) -> Figure | None:
    """The best full sets with their intervals; those tied with the first stand out."""
    top = _full(view)[:TOP] or view.compared[:TOP]
    if not top:
        return None
    data: list[dict[str, Any]] = []
    for is_tied, name, colour, symbol in (
        (True, "tied with the first", BLUE, "circle"),
        (False, "behind", GREY, "circle-open"),
    ):
        mine = [e for e in top if e.tied == is_tied]
        if mine:
            data.append(
                {
                    "type": "scatter",
                    "mode": "markers",
                    "name": name,
                    "x": hundredths([e.score for e in mine]),
                    "y": [shown(e.layers) for e in mine],
                    "error_x": {**_interval(mine), "color": colour},
                    "marker": {
                        "size": 10,
                        "color": colour,
                        "symbol": symbol,
                        "line": {"width": 2, "color": colour},
                    },
                    "hovertemplate": "layers %{y}<br>%{x:.1f} %<extra></extra>",
                }
            )
    held = [(e, e.held_out.score) for e in top if e.held_out]
    if held:
        data.append(
            {
                "type": "scatter",
                "mode": "markers",
                "name": "on held-out questions",
                "x": hundredths([score for _, score in held]),
                "y": [shown(e.layers) for e, _ in held],
                "marker": {
                    "size": 9,
                    "color": ORANGE,
                    "symbol": "diamond-open",
                    "line": {"width": 2},
                },
                "hovertemplate": "layers %{y}<br>%{x:.1f} % held-out<extra></extra>",
            }
        )
    first = top[0]
    tied = sum(e.tied for e in _full(view)[1:])
    order = [shown(e.layers) for e in top]
    return Figure(
        name="best-sets",
        title="The best layer sets",
        short="Best sets",
        alt=(
            f"Dots with 95 % intervals for the best {len(top)} layer sets. The first, layers "
            f"{shown(first.layers)}, scores {percent(first.score)}, interval "
            f"{percent(first.ci_low)} to {percent(first.ci_high)}; {tied} other "
            f"full {'set' if tied == 1 else 'sets'} cannot be told from it."
        ),
        note=(
            f"Each set on {'all' if _full(view) else 'part of the'} questions. Tied: the "
            "difference to the first, question by question, may well be chance (p above 0.05). "
            "The first of many is partly lucky"
            + ("; its score on held-out questions is not." if held else ".")
        ),
        plot={
            "data": data,
            "layout": layout(
                xaxis=axis("score, %"),
                yaxis=axis(
                    "",
                    type="category",
                    categoryorder="array",
                    categoryarray=order[::-1],
                    range=[-0.6, len(order) - 0.4],
                    showgrid=False,
                    tickmode="linear",
                ),
                showlegend=len(data) > 1,
            ),
        },
        height=120 + 24 * len(top),
        head=(
            "rank",
            "layers",
            "score",
            "95 % interval",
            "behind the first, points",
            "p",
            "held-out",
        ),
        rows=[
            (
                e.rank,
                shown(e.layers),
                percent(e.score),
                interval(e.ci_low, e.ci_high),
                points(e.behind),
                chance(e.p_value),
                percent(e.held_out.score if e.held_out else None),
            )
            for e in top
        ],
    )


def _price(view: StudyView, row: LeaderboardRow) -> str:
    """What a set costs, in words."""
    if row.cost is None:
        n = row.n_layers
        return f"{n} {'layer' if n == 1 else 'layers'}"
    what, _, unit = view.cost.title.rpartition(", ")
    return f"{what} {view.cost.text(row.cost)} {unit}"


def _cost(view: StudyView, row: LeaderboardRow) -> float:
    """What a row costs, in the unit of `view.cost.title`."""
    return view.cost.shown(float(row.n_layers) if row.cost is None else row.cost)


def _alone(view: StudyView, name: str) -> int | str:
    """What the base or a donor costs."""
    n, donors = view.n_layers, view.donors
    layers = LayerSet(())
    if name in donors:
        layers = all_of(donors.index(name), n, len(donors))
    return len(layers) if view.cost.table is None else view.cost.text(view.cost.of(layers))


def _dashes() -> Iterator[str]:
    """How the lines of base and donors are drawn."""
    yield "dot"
    yield from itertools.cycle(("dash", "dashdot", "longdash"))


def score_by_size(view: StudyView) -> Figure | None:
    """Score against what a set costs, with the Pareto front, base and donor."""
    if not view.compared:
        return None
    # What a set costs is the number of its layers, or what the study counts instead.
    sizes = view.cost.table is None
    data: list[dict[str, Any]] = []
    for fidelity, name, colour, size, opacity in (
        ("fast", "part of the questions", GREY, 5, 0.6),
        ("full", "all questions", BLUE, 8, 0.9),
    ):
        mine = [e for e in view.compared if e.fidelity == fidelity]
        if mine:
            places = [_cost(view, row) for row in mine]
            if sizes:
                # Spread within a size, the same way every time.
                places = [r.n_layers + 0.5 * ((r.trial * 0.618034) % 1 - 0.5) for r in mine]
            data.append(
                {
                    "type": "scatter",
                    "mode": "markers",
                    "name": name,
                    "x": [float(f"{x:.4g}") for x in places],
                    "y": hundredths([r.score for r in mine]),
                    "text": [shown(r.layers) for r in mine],
                    "marker": {"size": size, "color": colour, "opacity": opacity},
                    "hovertemplate": "layers %{text}<br>%{y:.1f} %<extra></extra>",
                }
            )
    front = view.front
    data.append(
        {
            "type": "scatter",
            "mode": "lines+markers",
            "name": f"best of its {'size' if sizes else 'cost'}",
            "x": [float(f"{_cost(view, e):.4g}") for e in front],
            "y": hundredths([e.score for e in front]),
            "text": [shown(e.layers) for e in front],
            "error_y": {**_interval(front), "color": ORANGE},
            "line": {"color": ORANGE, "width": 2},
            "marker": {"size": 10, "color": ORANGE},
            "hovertemplate": "layers %{text}<br>%{y:.1f} %<extra></extra>",
        }
    )
    every = [_cost(view, e) for e in view.compared]
    margin = 0.5 if sizes else 0.05 * (max(every) - min(every)) or 0.5
    low, high = min(every) - margin, max(every) + margin
    for reference, dash in zip(view.references.values(), _dashes(), strict=False):
        score = round(100 * reference.score, 2)
        data.append(
            {
                "type": "scatter",
                "mode": "lines",
                "name": f"the {reference.title} alone, {score:.1f} %",
                "x": [low, high],
                "y": [score, score],
                "line": {"color": INK, "width": 1.5, "dash": dash},
                "hovertemplate": f"the {reference.title} alone: {score:.1f} %<extra></extra>",
            }
        )
    steps = "; ".join(f"{_price(view, e)} ({shown(e.layers)}): {percent(e.score)}" for e in front)
    alone = view.references.values()
    ends = "".join(f" The {r.title} alone: {percent(r.score)}." for r in alone)
    return Figure(
        name="score-by-size",
        title=f"Score against {'the number of donor layers' if sizes else view.cost.title}",
        short="Score by size" if sizes else "Score by cost of a set",
        alt=(
            f"Scatter of all evaluated sets. Best of each {'size' if sizes else 'cost'}: {steps}."
            f"{ends}"
        ),
        note=(
            (
                "The line joins the best set of each number of layers where more layers bring "
                "more. "
                if sizes
                else "The line joins the best sets where a higher cost brings more. "
            )
            + "Grey dots rest on fewer questions, and the best of them flatter most."
        ),
        plot={
            "data": data,
            "layout": layout(
                xaxis=axis(
                    view.cost.title,
                    range=[low, high],
                    showgrid=False,
                    **({"dtick": 1} if sizes else {}),
                ),
                yaxis=axis("score, %"),
            ),
        },
        height=460,
        head=(view.cost.title, "layers", "score", "95 % interval", "questions"),
        rows=[
            *(
                (
                    e.n_layers if sizes else view.cost.text(e.cost or 0.0),
                    shown(e.layers),
                    percent(e.score),
                    interval(e.ci_low, e.ci_high),
                    e.questions,
                )
                for e in front
            ),
            *(
                (
                    _alone(view, name),
                    r.title,
                    percent(r.score),
                    interval(r.ci_low, r.ci_high),
                    r.questions,
                )
                for name, r in view.references.items()
            ),
        ],
    )
