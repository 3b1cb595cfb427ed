"""Figures of scores: the leaderboard, score against size, fast against full, and the subjects."""

from __future__ import annotations

from typing import Any

from optlayers.report.data import Entry, Report
from optlayers.report.figure import Figure, chance, hundredths, interval, percent, points, shown
from optlayers.report.theme import AQUA, BLUE, GREY, INK, ORANGE, SOFT, axis, layout

TOP = 20
MOST_ROWS = 300


def _interval(entries: list[Entry]) -> dict[str, Any]:
    """Error bars from score to either end of the interval, in points."""
    return {
        "type": "data",
        "symmetric": False,
        "array": hundredths([e.row.ci_high - e.row.score for e in entries]),
        "arrayminus": hundredths([e.row.score - e.row.ci_low for e in entries]),
        "thickness": 1.5,
        "width": 0,
    }


def best_sets(report: Report) -> Figure | None:
    """The best full sets with their intervals; those tied with the first stand out."""
    top = report.full[:TOP] or report.entries[:TOP]
    if not top:
        return None
    data: list[dict[str, Any]] = []
    for is_tied, name, colour in ((True, "tied with the first", BLUE), (False, "behind", GREY)):
        mine = [e for e in top if e.tied == is_tied]
        if mine:
            data.append(
                {
                    "type": "scatter",
                    "mode": "markers",
                    "name": name,
                    "x": hundredths([e.row.score for e in mine]),
                    "y": [shown(e.row.layers) for e in mine],
                    "error_x": {**_interval(mine), "color": colour},
                    "marker": {"size": 10, "color": colour},
                    "hovertemplate": "layers %{y}<br>%{x:.1f} %<extra></extra>",
                }
            )
    first = top[0].row
    tied = sum(e.tied for e in report.full)
    order = [shown(e.row.layers) for e in top]
    return Figure(
        name="best-sets",
        title="The best layer sets",
        alt=(
            f"Dots with 95 % intervals for the best {len(top)} layer sets. The first, layers "
            f"{shown(first.layers)}, scores {percent(first.score)}, interval "
            f"{percent(first.ci_low)} to {percent(first.ci_high)}; {tied} full sets cannot be told "
            "from it."
        ),
        note=(
            "Each set on all questions. Tied: the difference to the first, question by question, "
            "may well be chance (p above 0.05). The first of many is partly lucky: see the "
            "held-out check."
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
                    showgrid=False,
                ),
                showlegend=len(data) > 1,
            ),
        },
        height=120 + 24 * len(top),
        head=("rank", "layers", "score", "95 % interval", "behind the first, points", "p"),
        rows=[
            (
                e.row.rank,
                shown(e.row.layers),
                percent(e.row.score),
                interval(e.row.ci_low, e.row.ci_high),
                points(e.behind),
                chance(e.p_value),
            )
            for e in top
        ],
    )


def score_by_size(report: Report) -> Figure | None:
    """Score against number of donor layers, with the Pareto front, base and donor."""
    if not report.entries:
        return None
    data: list[dict[str, Any]] = []
    for fidelity, name, colour, size, opacity in (
        ("fast", "part of the questions", GREY, 5, 0.45),
        ("full", "all questions", BLUE, 8, 0.9),
    ):
        mine = [e.row for e in report.entries if e.row.fidelity == fidelity]
        if mine:
            # Spread within a size, the same way every time.
            spread = [r.n_layers + 0.5 * ((r.trial * 0.618034) % 1 - 0.5) for r in mine]
            data.append(
                {
                    "type": "scatter",
                    "mode": "markers",
                    "name": name,
                    "x": [round(x, 3) for x in spread],
                    "y": hundredths([r.score for r in mine]),
                    "text": [shown(r.layers) for r in mine],
                    "marker": {"size": size, "color": colour, "opacity": opacity},
                    "hovertemplate": "layers %{text}<br>%{y:.1f} %<extra></extra>",
                }
            )
    front = report.front
    data.append(
        {
            "type": "scatter",
            "mode": "lines+markers",
            "name": "best of its size",
            "x": [e.row.n_layers for e in front],
            "y": hundredths([e.row.score for e in front]),
            "text": [shown(e.row.layers) for e in front],
            "error_y": {**_interval(front), "color": ORANGE},
            "line": {"color": ORANGE, "width": 2},
            "marker": {"size": 10, "color": ORANGE},
            "hovertemplate": "layers %{text}<br>%{y:.1f} %<extra></extra>",
        }
    )
    low = min(e.row.n_layers for e in report.entries) - 0.5
    high = max(e.row.n_layers for e in report.entries) + 0.5
    for reference, dash in zip(report.references.values(), ("dot", "dash"), strict=False):
        score = round(100 * reference.score, 2)
        data.append(
            {
                "type": "scatter",
                "mode": "lines",
                "name": f"the {reference.name} alone, {score:.1f} %",
                "x": [low, high],
                "y": [score, score],
                "line": {"color": INK, "width": 1.5, "dash": dash},
                "hoverinfo": "name",
            }
        )
    steps = "; ".join(
        f"{e.row.n_layers} layers ({shown(e.row.layers)}): {percent(e.row.score)}" for e in front
    )
    ends = "; ".join(f"the {n} alone: {percent(r.score)}" for n, r in report.references.items())
    return Figure(
        name="score-by-size",
        title="Score against the number of donor layers",
        alt=f"Scatter of all evaluated sets. Best of each size: {steps}. {ends}.",
        note=(
            "The line joins the best set of each number of layers where more layers bring more. "
            "Grey dots rest on fewer questions, and the best of them flatter most."
        ),
        plot={
            "data": data,
            "layout": layout(
                xaxis=axis("layers from the donor", dtick=1, range=[low, high], showgrid=False),
                yaxis=axis("score, %"),
            ),
        },
        height=460,
        head=("layers from the donor", "layers", "score", "95 % interval", "questions"),
        rows=[
            *(
                (
                    e.row.n_layers,
                    shown(e.row.layers),
                    percent(e.row.score),
                    interval(e.row.ci_low, e.row.ci_high),
                    e.row.questions,
                )
                for e in front
            ),
            *(
                (
                    0 if name == "base" else report.n_layers,
                    name,
                    percent(r.score),
                    interval(r.ci_low, r.ci_high),
                    r.questions,
                )
                for name, r in report.references.items()
            ),
        ],
    )


def fast_against_full(report: Report) -> Figure | None:
    """Fast against full score of the sets that have both, with the rank correlation."""
    pairs = report.fast_full
    if len(pairs) < 2:
        return None
    values = [100 * v for p in pairs for v in (p.fast, p.full)]
    ends = [min(values) - 2, max(values) + 2]
    rho = report.rank_correlation
    told = "cannot be told" if rho is None else f"{rho:.2f}"
    above = sum(p.fast > p.full for p in pairs)
    return Figure(
        name="fast-full",
        title=f"Fast against full score: rank correlation {told}",
        alt=(
            f"Scatter of {len(pairs)} layer sets, score on the {report.n_fast} fast questions "
            f"against score on all {report.n_full}. Spearman's rank correlation {told}; the fast "
            f"score is the higher one for {above} of them."
        ),
        note=(
            "Below the line the fast score promised more than all questions held. The sets that "
            "went on were chosen by their fast score, which lowers the correlation."
        ),
        plot={
            "data": [
                {
                    "type": "scatter",
                    "mode": "lines",
                    "x": [round(v, 2) for v in ends],
                    "y": [round(v, 2) for v in ends],
                    "line": {"color": SOFT, "width": 1, "dash": "dot"},
                    "hoverinfo": "skip",
                    "showlegend": False,
                },
                {
                    "type": "scatter",
                    "mode": "markers",
                    "x": hundredths([p.fast for p in pairs]),
                    "y": hundredths([p.full for p in pairs]),
                    "text": [shown(p.layers) for p in pairs],
                    "marker": {"size": 9, "color": BLUE, "opacity": 0.8},
                    "showlegend": False,
                    "hovertemplate": (
                        "layers %{text}<br>fast %{x:.1f} %, full %{y:.1f} %<extra></extra>"
                    ),
                },
            ],
            "layout": layout(
                xaxis=axis(f"score on {report.n_fast} fast questions, %"),
                yaxis=axis(f"score on all {report.n_full}, %"),
            ),
        },
        height=420,
        head=("layers", "fast", "full"),
        rows=[(shown(p.layers), percent(p.fast), percent(p.full)) for p in pairs[:MOST_ROWS]],
    )


def by_subject(report: Report) -> Figure | None:
    """The winner against base and donor, subject by subject."""
    if not report.subjects or report.best is None:
        return None
    ordered = sorted(report.subjects, key=lambda s: (s.winner - (s.base or 0.0), s.name))
    names = [s.name for s in ordered]
    data: list[dict[str, Any]] = []
    if all(s.base is not None and s.donor is not None for s in ordered):
        # Thin lines from the worst to the best of the three.
        x: list[float | None] = []
        y: list[str | None] = []
        for s in ordered:
            values = [100 * v for v in (s.base, s.winner, s.donor) if v is not None]
            x += [round(min(values), 2), round(max(values), 2), None]
            y += [s.name, s.name, None]
        data.append(
            {
                "type": "scatter",
                "mode": "lines",
                "x": x,
                "y": y,
                "line": {"color": GREY, "width": 1.5},
                "hoverinfo": "skip",
                "showlegend": False,
            }
        )
    layers = shown(report.best.row.layers)
    for name, colour, symbol, found in (
        ("base", GREY, "circle-open", [s.base for s in ordered]),
        ("donor", AQUA, "diamond-open", [s.donor for s in ordered]),
        (f"hybrid with layers {layers}", BLUE, "circle", [s.winner for s in ordered]),
    ):
        if any(v is not None for v in found):
            data.append(
                {
                    "type": "scatter",
                    "mode": "markers",
                    "name": name,
                    "x": hundredths(found),
                    "y": names,
                    "marker": {
                        "size": 10,
                        "color": colour,
                        "symbol": symbol,
                        "line": {"width": 2, "color": colour},
                    },
                    "hovertemplate": "%{y}<br>%{x:.1f} %<extra>" + name + "</extra>",
                }
            )
    gains = [s.winner - s.base for s in ordered if s.base is not None]
    more = (
        f" It gains most in {ordered[-1].name}, {points(gains[-1])} points over the base."
        if gains
        else " Base and donor were not evaluated on these questions."
    )
    return Figure(
        name="subjects",
        title="The winner between base and donor, by subject",
        alt=f"Dots for {len(ordered)} subjects: base, donor and the best hybrid.{more}",
        note=(
            "Shares of right answers on the questions of the search; few questions a subject say "
            "little about one subject alone."
        ),
        plot={
            "data": data,
            "layout": layout(
                xaxis=axis("right answers, %"),
                yaxis=axis(
                    "",
                    type="category",
                    categoryorder="array",
                    categoryarray=names,
                    showgrid=False,
                    tickmode="linear",
                ),
            ),
        },
        height=130 + 22 * len(ordered),
        head=("subject", "questions", "weight", "base", "winner", "donor", "gain, points"),
        rows=[
            (
                s.name,
                s.questions,
                percent(s.weight),
                percent(s.base),
                percent(s.winner),
                percent(s.donor),
                points(None if s.base is None else s.winner - s.base),
            )
            for s in reversed(ordered)
        ],
    )
