"""Figures of scores: the best sets, score against size, fast against full, and by subject."""

from __future__ import annotations

from typing import Any

from optlayers.layerset import BASE, LayerSet
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
    names = {row.rank: layers_text(row.layers) for row in top}
    data = []
    for tied, name, colour, symbol in (
        (True, "tied with the first", BLUE, "circle"),
        (False, "behind", GREY, "circle-open"),
    ):
        rows = [row for row in top if row.tied == tied]
        x, y = hundredths([row.score for row in rows]), [names[row.rank] for row in rows]
        hover = "layers %{y}<br>%{x:.1f} %<extra></extra>"
        look = {"size": 10, "symbol": symbol, "error_x": _error_bars(rows, colour)}
        if rows:
            data.append(dots(name, x, y, colour, hover, **look))
    held = {names[row.rank]: row.held_out.score for row in top if row.held_out}
    if held:
        x, hover = hundredths(list(held.values())), "layers %{y}<br>%{x:.1f} % held-out"
        hover += "<extra></extra>"
        data.append(
            dots("on held-out questions", x, list(held), ORANGE, hover, symbol="diamond-open")
        )
    first, tied_sets = top[0], sum(row.tied for row in full[1:])
    return Section(
        name="best-sets",
        title="The best layer sets",
        short="Best sets",
        alt=(
            f"Dots with 95 % intervals for the best {len(top)} layer sets. The first, layers "
            f"{names[first.rank]}, scores {percent(first.score)}, interval "
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
            yaxis=row_axis(list(names.values())[::-1]),
            showlegend=len(data) > 1,
        ),
        height=120 + 24 * len(top),
        head=("rank", "layers", "score", "95 % interval", "behind, points", "p", "held-out"),
        rows=[
            (
                row.rank,
                names[row.rank],
                percent(row.score),
                interval(row.ci_low, row.ci_high),
                points(row.behind),
                p_text(row.p_value),
                percent(row.held_out.score if row.held_out else None),
            )
            for row in top
        ],
    )


def score_by_size(view: StudyView) -> Section | None:
    """Score against what a set costs, with the Pareto front, the base and the donors."""
    if not view.leaderboard:
        return None
    # A set costs the number of its layers, or what the study counts instead.
    cost, sizes = view.cost, view.cost.table is None
    what, _, unit = cost.title.rpartition(", ")

    def place(row: LeaderboardRow) -> float:
        """Where a row lies on the axis of cost."""
        return float(f"{cost.shown(float(row.n_layers) if row.cost is None else row.cost):.4g}")

    def price(row: LeaderboardRow) -> str:
        if row.cost is not None:
            return f"{what} {cost.text(row.cost)} {unit}"
        return f"{row.n_layers} {'layer' if row.n_layers == 1 else 'layers'}"

    def jitter(row: LeaderboardRow) -> float:
        """Spreads rows of one size, the same way each time."""
        return 0.5 * ((row.trial * 0.618034) % 1 - 0.5) if sizes else 0.0

    hover = "layers %{text}<br>%{y:.1f} %<extra></extra>"
    data: list[dict[str, Any]] = []
    for fidelity, name, colour, size, opacity in (
        ("fast", "part of the questions", GREY, 5, 0.6),
        ("full", "all questions", BLUE, 8, 0.9),
    ):
        rows = [row for row in view.leaderboard if row.fidelity == fidelity]
        if rows:
            x = [round(place(r) + jitter(r), 4) for r in rows]
            y = hundredths([r.score for r in rows])
            text = [layers_text(r.layers) for r in rows]
            look = {"size": size, "outline": 0, "opacity": opacity, "text": text}
            data.append(dots(name, x, y, colour, hover, **look))
    front, texts = view.front, [layers_text(row.layers) for row in view.front]
    x, y = [place(row) for row in front], hundredths([row.score for row in front])
    joined = dots(f"best of its {'size' if sizes else 'cost'}", x, y, ORANGE, hover, size=10)
    bars = {"mode": "lines+markers", "text": texts, "error_y": _error_bars(front, ORANGE)}
    data.append({**joined, **bars, "line": {"color": ORANGE, "width": 2}})
    every = [place(row) for row in view.leaderboard]
    margin = 0.5 if sizes else 0.05 * (max(every) - min(every)) or 0.5
    ends = [min(every) - margin, max(every) + margin]
    references, alone = list(view.references.values()), {}
    for number, reference in enumerate(references):
        name = f"the {reference.title} alone"
        score = round(100 * reference.score, 2)
        dash = DASHES[0] if not number else DASHES[1 + (number - 1) % 3]
        title, hover = f"{name}, {score:.1f} %", f"{name}: {score:.1f} %<extra></extra>"
        data.append(line(title, ends, [score, score], INK, hover, width=1.5, dash=dash))
        is_donor = reference.name in view.donors
        layers = view.space.whole(reference.name) if is_donor else LayerSet(())
        alone[reference.name] = str(len(layers)) if sizes else cost.text(cost.of(layers))
    best = "; ".join(
        f"{price(row)} ({text}): {percent(row.score)}"
        for row, text in zip(front, texts, strict=True)
    )
    prices = [str(row.n_layers) if row.cost is None else cost.text(row.cost) for row in front]
    listed: list[tuple[str, str, LeaderboardRow | Reference]]
    listed = list(zip(prices, texts, front, strict=True))
    listed += [(alone[r.name], r.title, r) for r in references]
    return Section(
        name="score-by-size",
        title=f"Score against {'the number of donor layers' if sizes else cost.title}",
        short="Score by size" if sizes else "Score by cost of a set",
        alt=(
            f"Scatter of all evaluated sets. Best of each {'size' if sizes else 'cost'}: {best}."
            + "".join(f" The {r.title} alone: {percent(r.score)}." for r in references)
        ),
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
    names = [layers_text(p.layers) for p in pairs]
    hover = "layers %{text}<br>fast %{x:.1f} %, full %{y:.1f} %<extra></extra>"
    look = {"opacity": 0.8, "outline": 0, "text": names, "showlegend": False}
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
                dots("", fast, full, BLUE, hover, **look),
            ],
            xaxis=axis(f"score on the {view.n_fast:,} fast questions, %"),
            yaxis=axis(f"score on all {view.n_full:,}, %"),
        ),
        height=420,
        head=("layers", "fast", "full"),
        rows=[
            (name, percent(p.fast), percent(p.full))
            for name, p in zip(names[:MOST_ROWS], pairs[:MOST_ROWS], strict=True)
        ],
    )


def by_subject(view: StudyView) -> Section | None:
    """The best layer set against the base and the donor, subject by subject."""
    if not view.subjects or view.best is None:
        return None
    subjects = sorted(view.subjects, key=lambda s: (s.winner - (s.base or 0.0), s.name))
    names = short_names([s.name for s in subjects])
    tall = len(subjects) > TALL
    best = f"hybrid with layers {layers_text(view.best.layers)}"
    titles = {name: reference.title for name, reference in view.references.items()}
    donor = titles.get(view.donors[0], "donor")
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
        (best, BLUE, "circle", [s.winner for s in subjects]),
    ):
        if any(share is not None for share in shares):
            hover = "%{y}<br>%{x:.1f} %<extra>" + name + "</extra>"
            look = {"size": 10, "symbol": symbol}
            data.append(dots(name, hundredths(shares), names, colour, hover, **look))
    gains = [s.winner - s.base for s in subjects if s.base is not None]
    more = " Base and donor were not evaluated on these questions."
    if gains:
        more = f" It gains most in {names[-1]}, {points(gains[-1])} points over the base."
    fields = ((BASE, "base"), (view.donors[0], "donor"))
    known = {titles[name]: field for name, field in fields if name in titles}
    with_gain = "base" in known.values()
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
        head=["subject", "questions", "weight", "winner", *known, *(["gain, points"] * with_gain)],
        rows=[
            [
                *(s.name, s.questions, percent(s.weight), percent(s.winner)),
                *(percent(getattr(s, key)) for key in known.values()),
                *([points(s.winner - (s.base or 0.0))] * with_gain),
            ]
            for s in reversed(subjects)
        ],
        expanded=True,
    )
