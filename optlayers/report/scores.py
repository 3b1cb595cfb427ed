"""Figures of scores: the best sets, score against size, fast against full, and by subject."""

from __future__ import annotations

import itertools
from typing import Any

from optlayers.layerset import BASE, DONOR, LayerSet
from optlayers.report.formats import (
    hundredths,
    interval,
    layers_text,
    p_text,
    percent,
    points,
    short_names,
)
from optlayers.report.section import (
    AQUA,
    BLUE,
    GREY,
    INK,
    ORANGE,
    SOFT,
    Section,
    axis,
    dots,
    line,
    plot,
    row_axis,
    table,
)
from optlayers.results.answers import Reference
from optlayers.results.leaderboard import LeaderboardRow
from optlayers.results.view import StudyView

TOP = 20
MOST_ROWS = 300
# From so many subjects on the scale is drawn at both ends of the figure.
TALL = 24
DASHES = ("dot", "dash", "dashdot", "longdash")


def _error_bars(rows: list[LeaderboardRow], colour: str) -> dict[str, Any]:
    """Error bars from the score to both ends of the interval, in points."""
    return {
        "type": "data",
        "symmetric": False,
        "array": hundredths([r.ci_high - r.score for r in rows]),
        "arrayminus": hundredths([r.score - r.ci_low for r in rows]),
        "thickness": 1.5,
        "width": 0,
        "color": colour,
    }


def best_sets(view: StudyView) -> Section | None:
    """The best full sets with their intervals; those tied with the first stand out."""
    full = [row for row in view.compared if row.fidelity == "full"]
    top = full[:TOP] or view.compared[:TOP]
    if not top:
        return None
    data = []
    for tied, name, colour, symbol in (
        (True, "tied with the first", BLUE, "circle"),
        (False, "behind", GREY, "circle-open"),
    ):
        rows = [row for row in top if row.tied == tied]
        x, y = hundredths([row.score for row in rows]), [layers_text(row.layers) for row in rows]
        hover = "layers %{y}<br>%{x:.1f} %<extra></extra>"
        look = {"size": 10, "symbol": symbol, "error_x": _error_bars(rows, colour)}
        if rows:
            data.append(dots(name, x, y, colour, hover, **look))
    held = {layers_text(row.layers): row.held_out.score for row in top if row.held_out}
    if held:
        name, hover = "on held-out questions", "layers %{y}<br>%{x:.1f} % held-out<extra></extra>"
        x, y = hundredths(list(held.values())), list(held)
        data.append(dots(name, x, y, ORANGE, hover, symbol="diamond-open"))
    first, tied_sets = top[0], sum(row.tied for row in full[1:])
    return Section(
        name="best-sets",
        title="The best layer sets",
        short="Best sets",
        alt=(
            f"Dots with 95 % intervals for the best {len(top)} layer sets. The first, layers "
            f"{layers_text(first.layers)}, scores {percent(first.score)}, interval "
            f"{interval(first.ci_low, first.ci_high)}; {tied_sets} other full "
            f"{'set does' if tied_sets == 1 else 'sets do'} not differ significantly from it."
        ),
        note=(
            f"Each set on {'all' if full else 'part of the'} questions. Tied: the difference to "
            "the first on the same questions is not significant (p above 0.05). The best of many "
            f"scores is partly luck{'; a score on held-out questions is not' if held else ''}."
        ),
        plot=plot(
            data,
            xaxis=axis("score, %"),
            yaxis=row_axis([layers_text(row.layers) for row in reversed(top)]),
            showlegend=len(data) > 1,
        ),
        height=120 + 24 * len(top),
        **table(
            top,
            {
                "rank": lambda r: r.rank,
                "layers": lambda r: layers_text(r.layers),
                "score": lambda r: percent(r.score),
                "95 % interval": lambda r: interval(r.ci_low, r.ci_high),
                "behind, points": lambda r: points(r.behind),
                "p": lambda r: p_text(r.p_value),
                "held-out": lambda r: percent(r.held_out.score if r.held_out else None),
            },
        ),
    )


def score_by_size(view: StudyView) -> Section | None:
    """Score against what a set costs, with the Pareto front, the base and the donors."""
    if not view.leaderboard:
        return None
    # A set costs the number of its layers, or what the study counts instead.
    cost, sizes, front = view.cost, view.cost.table is None, view.front
    what, _, unit = cost.title.rpartition(", ")
    word = "size" if sizes else "cost"

    def place(row: LeaderboardRow, jitter: bool = False) -> float:
        """Where a row is on the axis of cost; with jitter, rows of one size are spread."""
        spread = 0.5 * ((row.trial * 0.618034) % 1 - 0.5) if sizes and jitter else 0.0
        return float(f"{cost.shown(row.price) + spread:.4g}")

    def price(row: LeaderboardRow) -> str:
        text = cost.text(row.price)
        plural = "" if row.n_layers == 1 else "s"
        return f"{text} layer{plural}" if sizes else f"{what} {text} {unit}"

    hover = "layers %{text}<br>%{y:.1f} %<extra></extra>"
    data: list[dict[str, Any]] = []
    for fidelity, name, colour, size, opacity in (
        ("fast", "part of the questions", GREY, 5, 0.6),
        ("full", "all questions", BLUE, 8, 0.9),
    ):
        rows = [row for row in view.leaderboard if row.fidelity == fidelity]
        x, y = [place(r, jitter=True) for r in rows], hundredths([r.score for r in rows])
        text = [layers_text(r.layers) for r in rows]
        look: dict[str, Any] = {"size": size, "outline": 0, "opacity": opacity, "text": text}
        if rows:
            data.append(dots(name, x, y, colour, hover, **look))
    x, y = [place(row) for row in front], hundredths([row.score for row in front])
    name, text = (
        f"best of its {'size' if sizes else 'cost'}",
        [layers_text(r.layers) for r in front],
    )
    look = {"mode": "lines+markers", "line": {"color": ORANGE, "width": 2}, "size": 10}
    bars = _error_bars(front, ORANGE)
    data.append(dots(name, x, y, ORANGE, hover, text=text, error_y=bars, **look))
    every = [place(row) for row in view.leaderboard]
    margin = 0.5 if sizes else 0.05 * (max(every) - min(every)) or 0.5
    ends = [min(every) - margin, max(every) + margin]
    listed: list[tuple[str, str, LeaderboardRow | Reference]]
    listed = [(cost.text(row.price), layers_text(row.layers), row) for row in front]
    for reference, dash in zip(view.references.values(), itertools.cycle(DASHES), strict=False):
        name, score = f"the {reference.title} alone", round(100 * reference.score, 2)
        title, hover = f"{name}, {score:.1f} %", f"{name}: {score:.1f} %<extra></extra>"
        data.append(line(title, ends, [score, score], INK, hover, width=1.5, dash=dash))
        is_donor = reference.name in view.donors
        layers = view.space.whole(reference.name) if is_donor else LayerSet(())
        listed.append((cost.text(cost.of(layers)), reference.title, reference))
    best = "; ".join(f"{price(r)} ({layers_text(r.layers)}): {percent(r.score)}" for r in front)
    alone = [f" The {r.title} alone: {percent(r.score)}." for r in view.references.values()]
    return Section(
        name="score-by-size",
        title=f"Score against {'the number of donor layers' if sizes else cost.title}",
        short="Score by size" if sizes else "Score by cost of a set",
        alt=f"Scatter of all evaluated sets. Best of each {word}: {best}." + "".join(alone),
        note=(
            "The line joins the best sets "
            + ("of each number of layers where more layers" if sizes else "where a higher cost")
            + f" {'bring' if sizes else 'brings'} a higher score. Grey dots rest on fewer "
            "questions, and the best of them are biased upwards most."
        ),
        plot=plot(
            data,
            xaxis=axis(cost.title, range=ends, showgrid=False, **({"dtick": 1} if sizes else {})),
            yaxis=axis("score, %"),
        ),
        height=460,
        head=(cost.title, "layers", "score", "95 % interval", "questions"),
        rows=[
            (amount, name, percent(r.score), interval(r.ci_low, r.ci_high), r.questions)
            for amount, name, r in listed
        ],
    )


def fast_against_full(view: StudyView) -> Section | None:
    """Fast against full score of the sets that have both, with the rank correlation."""
    pairs = view.fast_and_full
    if len(pairs) < 2:
        return None
    fast, full = hundredths([p.fast for p in pairs]), hundredths([p.full for p in pairs])
    values = [100 * score for pair in pairs for score in (pair.fast, pair.full)]
    ends = [round(min(values) - 2, 2), round(max(values) + 2, 2)]
    hover = "layers %{text}<br>fast %{x:.1f} %, full %{y:.1f} %<extra></extra>"
    look = {"opacity": 0.8, "outline": 0, "text": [layers_text(p.layers) for p in pairs]}
    rho = "undefined" if view.rank_correlation is None else f"{view.rank_correlation:.2f}"
    return Section(
        name="fast-full",
        title=f"Fast against full score: rank correlation {rho}",
        short="Fast against full",
        alt=(
            f"Scatter of {len(pairs)} layer sets, score on the {view.n_fast:,} fast questions "
            f"against score on all {view.n_full:,}. Spearman's rank correlation {rho}; the fast "
            f"score is higher for {sum(p.fast > p.full for p in pairs)} of them."
        ),
        note=(
            "Below the line the fast score is higher than the full one. These sets were chosen by "
            "their fast score, which lowers the correlation."
        ),
        plot=plot(
            [
                line("", ends, ends, SOFT, width=1, dash="dot"),
                dots("", fast, full, BLUE, hover, showlegend=False, **look),
            ],
            xaxis=axis(f"score on the {view.n_fast:,} fast questions, %"),
            yaxis=axis(f"score on all {view.n_full:,}, %"),
        ),
        height=420,
        head=("layers", "fast", "full"),
        rows=[(layers_text(p.layers), percent(p.fast), percent(p.full)) for p in pairs[:MOST_ROWS]],
    )


def by_subject(view: StudyView) -> Section | None:
    """The best layer set against the base and the donor, subject by subject."""
    if not view.subjects or view.best is None:
        return None
    subjects = sorted(view.subjects, key=lambda s: (s.winner - (s.base or 0.0), s.name))
    names = short_names([s.name for s in subjects])
    tall = len(subjects) > TALL
    hybrid = f"hybrid with layers {layers_text(view.best.layers)}"
    donor = DONOR if len(view.donors) == 1 else f"donor {view.donors[0]}"
    data = []
    if all(s.base is not None and s.donor is not None for s in subjects):
        # A thin line from the lowest to the highest of the three.
        spans = [(s.base or 0.0, s.winner, s.donor or 0.0) for s in subjects]
        x = [end for span in spans for end in (*hundredths([min(span), max(span)]), None)]
        y = [end for name in names for end in (name, name, None)]
        data.append(line("", x, y, GREY, width=1.5, **({"xaxis": "x2"} if tall else {})))
    for name, colour, symbol, shares in (
        (BASE, ORANGE, "circle-open", [s.base for s in subjects]),
        (donor, AQUA, "diamond-open", [s.donor for s in subjects]),
        (hybrid, BLUE, "circle", [s.winner for s in subjects]),
    ):
        if any(share is not None for share in shares):
            hover = "%{y}<br>%{x:.1f} %<extra>" + name + "</extra>"
            x, look = hundredths(shares), {"size": 10, "symbol": symbol}
            data.append(dots(name, x, names, colour, hover, **look))
    more = " Base and donor were not evaluated on these questions."
    if subjects[-1].base is not None:
        gain = points(subjects[-1].winner - subjects[-1].base)
        more = f" It gains most in {names[-1]}, {gain} points over the base."
    other_scale = axis("", overlaying="x", matches="x", side="top")
    return Section(
        name="subjects",
        title="The winner between base and donor, by subject",
        short="Subjects",
        alt=f"Dots for {len(subjects)} subjects: base, donor and the best hybrid.{more}",
        note=(
            "Shares of right answers on the questions of the search. With few questions per "
            "subject, the score in a single subject is uncertain."
        ),
        plot=plot(
            data,
            showlegend=True,
            xaxis=axis("right answers, %"),
            **({"xaxis2": other_scale} if tall else {}),
            yaxis=row_axis(names),
        ),
        height=130 + 22 * len(subjects),
        **table(
            subjects[::-1],
            {
                "subject": lambda s: s.name,
                "questions": lambda s: s.questions,
                "weight": lambda s: percent(s.weight),
                "winner": lambda s: percent(s.winner),
                BASE: lambda s: percent(s.base),
                donor: lambda s: percent(s.donor),
                "gain, points": lambda s: points(None if s.base is None else s.winner - s.base),
            },
        ),
        expanded=True,
    )
