"""Figures that compare: fast with full scores, and the winner with base and donor by subject."""

from __future__ import annotations

from typing import Any

from optlayers.report.figure import Figure, hundredths, percent, plain_names, points, shown
from optlayers.report.theme import AQUA, BLUE, GREY, ORANGE, SOFT, axis, layout
from optlayers.results.view import StudyView

MOST_ROWS = 300
TALL = 24


def fast_against_full(view: StudyView) -> Figure | None:
    """Fast against full score of the sets that have both, with the rank correlation."""
    pairs = view.fast_and_full
    if len(pairs) < 2:
        return None
    values = [100 * v for p in pairs for v in (p.fast, p.full)]
    ends = [min(values) - 2, max(values) + 2]
    rho = view.rank_correlation
    told = "cannot be told" if rho is None else f"{rho:.2f}"
    above = sum(p.fast > p.full for p in pairs)
    return Figure(
        name="fast-full",
        title=f"Fast against full score: rank correlation {told}",
        short="Fast against full",
        alt=(
            f"Scatter of {len(pairs)} layer sets, score on the {view.n_fast:,} fast questions "
            f"against score on all {view.n_full:,}. Spearman's rank correlation {told}; the fast "
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
                xaxis=axis(f"score on the {view.n_fast:,} fast questions, %"),
                yaxis=axis(f"score on all {view.n_full:,}, %"),
            ),
        },
        height=420,
        head=("layers", "fast", "full"),
        rows=[(shown(p.layers), percent(p.fast), percent(p.full)) for p in pairs[:MOST_ROWS]],
    )


def by_subject(view: StudyView) -> Figure | None:
    """The winner against base and donor, subject by subject."""
    if not view.subjects or view.best is None:
        return None
    ordered = sorted(view.subjects, key=lambda s: (s.winner - (s.base or 0.0), s.name))
    names = plain_names([s.name for s in ordered])
    # So many that one end of the picture is out of sight at the other: the scale at both.
    tall = len(ordered) > TALL
    data: list[dict[str, Any]] = []
    if all(s.base is not None and s.donor is not None for s in ordered):
        # Thin lines from the worst to the best of the three.
        x: list[float | None] = []
        y: list[str | None] = []
        for s, name in zip(ordered, names, strict=True):
            values = [100 * v for v in (s.base, s.winner, s.donor) if v is not None]
            x += [round(min(values), 2), round(max(values), 2), None]
            y += [name, name, None]
        data.append(
            {
                "type": "scatter",
                "mode": "lines",
                "x": x,
                "y": y,
                **({"xaxis": "x2"} if tall else {}),
                "line": {"color": GREY, "width": 1.5},
                "hoverinfo": "skip",
                "showlegend": False,
            }
        )
    layers = shown(view.best.layers)
    first = view.donors[0]
    donor = view.references[first].title if first in view.references else "donor"
    for name, colour, symbol, found in (
        ("base", ORANGE, "circle-open", [s.base for s in ordered]),
        (donor, AQUA, "diamond-open", [s.donor for s in ordered]),
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
    pairs = (("base", "base"), (first, "donor"))
    known = {view.references[n].title: field for n, field in pairs if n in view.references}
    gains = [s.winner - s.base for s in ordered if s.base is not None]
    more = (
        f" It gains most in {names[-1]}, {points(gains[-1])} points over the base."
        if gains
        else " Base and donor were not evaluated on these questions."
    )
    return Figure(
        name="subjects",
        title="The winner between base and donor, by subject",
        short="Subjects",
        alt=f"Dots for {len(ordered)} subjects: base, donor and the best hybrid.{more}",
        note=(
            "Shares of right answers on the questions of the search; few questions a subject say "
            "little about one subject alone."
        ),
        plot={
            "data": data,
            "layout": layout(
                showlegend=True,
                xaxis=axis("right answers, %"),
                **({"xaxis2": axis("", overlaying="x", matches="x", side="top")} if tall else {}),
                yaxis=axis(
                    "",
                    type="category",
                    categoryorder="array",
                    categoryarray=names,
                    range=[-0.6, len(names) - 0.4],
                    showgrid=False,
                    tickmode="linear",
                ),
            ),
        },
        height=130 + 22 * len(ordered),
        head=[
            "subject",
            "questions",
            "weight",
            "winner",
            *known,
            *(["gain, points"] * bool(gains)),
        ],
        rows=[
            [
                s.name,
                s.questions,
                percent(s.weight),
                percent(s.winner),
                *(percent(getattr(s, field)) for field in known.values()),
                *([points(s.winner - s.base)] if s.base is not None else []),
            ]
            for s in reversed(ordered)
        ],
        open=True,
    )
