"""Figures of layers: what each adds, what pairs add together, and what the search learned when."""

from __future__ import annotations

from typing import Any

from optlayers.report.formats import hundredths, layers_text, percent, points
from optlayers.report.section import (
    BLUE,
    DIVERGING,
    GREY,
    INK,
    ORANGE,
    RAMP,
    SOFT,
    SURFACE,
    Section,
    axis,
    dots,
    heatmap,
    name_axis,
    plot,
)
from optlayers.results.patterns import ELITE
from optlayers.results.view import StudyView
from optlayers.search import Effect

MOST_PAIRS = 40


def _effect_row(view: StudyView, effect: Effect) -> tuple[str, str, str, int]:
    """Layers, points, interval and sets of an effect, for a table."""
    span = f"{points(effect.ci_low)} to {points(effect.ci_high)}"
    return layers_text(view.space.labels(effect.layers)), points(effect.effect), span, effect.sets


def layer_effects(view: StudyView) -> Section | None:
    """What each layer adds on average, with 95 % intervals."""
    if view.effects is None:
        return None
    found, labels = view.effects.explanation.layers, view.choices
    data: list[dict[str, Any]] = []
    for name, colour, symbol, mine in (
        ("helps", BLUE, "circle", [e for e in found if e.is_sure and e.effect > 0]),
        ("harms", ORANGE, "diamond", [e for e in found if e.is_sure and e.effect < 0]),
        ("not significant", GREY, "circle-open", [e for e in found if not e.is_sure]),
    ):
        x = [labels[e.layers.indices[0]] for e in mine]
        bars = {"type": "data", "color": colour, "thickness": 2, "width": 0}
        bars["array"] = hundredths([e.ci_high - e.effect for e in mine])
        look = {"symbol": symbol, "error_y": bars, "customdata": [e.sets for e in mine]}
        hover = "layer %{x}: %{y:+.1f} points<br>in %{customdata} evaluated sets<extra></extra>"
        if mine:
            data.append(dots(name, x, hundredths([e.effect for e in mine]), colour, hover, **look))
    ranked = sorted(found, key=lambda e: -e.effect)[:4]
    best = ", ".join(
        f"layer {layers_text(view.space.labels(e.layers))} ({points(e.effect)})" for e in ranked
    )
    ticks = {"range": [-0.7, len(labels) - 0.3], "tick0": 0, "dtick": 1 + (len(labels) > 16)}
    zero = {"zeroline": True, "zerolinecolor": SOFT, "zerolinewidth": 1}
    return Section(
        name="layer-effects",
        title="What each layer adds",
        short="Layer effects",
        alt=f"Dots with 95 % intervals, one for each layer. The largest effects in points: {best}.",
        note=(
            "The score with the layer minus the score without it, averaged over the evaluated "
            "sets, from a model of main effects, pairs and triples. Where the interval contains 0 "
            "the layer may have no effect."
        ),
        plot=plot(
            data,
            xaxis=name_axis(labels, "layer", **ticks),
            yaxis=axis("points added", **zero),
        ),
        height=400,
        head=("layer", "adds, points", "95 % interval", "in evaluated sets"),
        rows=[_effect_row(view, effect) for effect in found],
    )


def pair_synergy(view: StudyView) -> Section | None:
    """What two layers add together beyond the sum of both, as a heat map."""
    found = view.effects
    if found is None:
        return None
    labels, n = view.choices, len(view.choices)
    values = [hundredths([float(v) for v in row], 1) for row in found.synergy]
    texts = [[""] * n for _ in range(n)]
    for pair in found.explanation.pairs:
        i, j = pair.layers.indices
        text = f"{points(pair.effect)} points, ± {100 * float(found.half[i, j]):.1f}"
        texts[i][j] = f"layers {labels[i]} and {labels[j]}: {text}"
        texts[j][i] = f"layers {labels[j]} and {labels[i]}: {text}"
    most = max((abs(v) for row in values for v in row if v is not None), default=1.0) or 1.0
    sure = [e for e in found.explanation.pairs if e.is_sure]
    strongest = "; ".join(
        f"{layers_text(view.space.labels(e.layers))}: {points(e.effect)} points" for e in sure[:4]
    )
    x = [labels[i] for e in sure for i in e.layers.indices]
    y = [labels[i] for e in sure for i in reversed(e.layers.indices)]
    marks = dots("", x, y, SURFACE, "", hoverinfo="skip", showlegend=False)
    marks["marker"] = {"size": 5, "color": SURFACE, "line": {"width": 1, "color": INK}}
    hover = {"text": texts, "hovertemplate": "%{text}<extra></extra>", "hoverongaps": False}
    cells = heatmap((labels, labels), values, DIVERGING, -most, "points", zmax=most, **hover)
    return Section(
        name="pair-synergy",
        title="Which layers help each other",
        short="Pair synergy",
        alt=f"Heat map of {n} by {n} layers"
        + (f". Strongest: {strongest}." if strongest else "; no synergy is significant."),
        note=(
            "Points that two layers add together beyond the sum of what each adds alone: blue, "
            "they need each other; red, they do the same work. A dot: the 95 % interval excludes "
            "0. From the same model; empty where no evaluated set has both. The table lists "
            "significant pairs first."
        ),
        plot=plot(
            [cells, marks],
            xaxis=axis("layer", type="category", showgrid=False, tickangle=0),
            yaxis=axis("layer", type="category", showgrid=False, autorange="reversed"),
        ),
        height=560,
        square=True,
        expanded=True,
        head=("layers", "points", "95 % interval", "sets"),
        rows=[_effect_row(view, effect) for effect in found.explanation.pairs[:MOST_PAIRS]],
    )


def evolution(view: StudyView) -> Section | None:
    """What share of the best sets had each layer, by generation."""
    found = view.generations
    if not found or not view.n_layers:
        return None
    names = ["probe" if g.number < 0 else str(g.number) for g in found]
    labels, share = view.choices, found[-1].share
    top = sorted(range(len(view.choices)), key=lambda i: -share[i])[:4]
    last = ", ".join(f"layer {labels[i]} {percent(share[i], 0)}" for i in top)
    values = [[round(100 * g.share[i]) for g in found] for i in range(len(view.choices))]
    hover = "generation %{x}, layer %{y}<br>%{z} % of the best sets<extra></extra>"
    look: dict[str, Any] = {"zmax": 100, "hovertemplate": hover}
    return Section(
        name="evolution",
        title="How the patterns evolved",
        short="Evolution",
        alt=(
            f"Heat map of layers over {len(found)} generations: share of the best {ELITE} sets so "
            f"far that have a layer. At the end: {last}."
        ),
        note=(
            "What the search has learned by each generation. Ranked by the scores on the first "
            "questions, which all sets have answered. The table lists the pairs that are most "
            "frequent in the best sets."
        ),
        plot=plot(
            [heatmap((names, labels), values, RAMP, 0, "% of best", **look)],
            xaxis=axis("generation", type="category", showgrid=False),
            yaxis=axis("layer", type="category", showgrid=False, autorange="reversed"),
        ),
        height=160 + 18 * len(view.choices),
        head=("generation", "new sets", "best first score", "most frequent pairs (sets)"),
        rows=[
            (
                name,
                g.sets,
                percent(g.best),
                "; ".join(f"{i} and {j} ({count})" for (i, j), count in g.pairs),
            )
            for name, g in zip(names, found, strict=True)
        ],
    )
