"""Figures of layers: what each adds, what pairs add together, and what the search learnt when."""

from __future__ import annotations

from typing import Any

from optlayers.report.figure import Figure, hundredths, percent, points, shown
from optlayers.report.theme import (
    BLUE,
    DIVERGING,
    GREY,
    INK,
    ORANGE,
    RAMP,
    SOFT,
    SURFACE,
    axis,
    layout,
    scale,
)
from optlayers.results.view import StudyView

PAIRS = 40


def layer_effects(view: StudyView) -> Figure | None:
    """What each layer adds on average, with 95 % intervals."""
    if view.effects is None:
        return None
    found = view.effects.layers
    # Names of layers where there are several donors, so that they stand side by side.
    several = len(view.donors) > 1

    def at(choice: int) -> int | str:
        return view.label(choice) if several else choice

    data: list[dict[str, Any]] = []
    for name, colour, symbol, mine in (
        ("helps", BLUE, "circle", [e for e in found if e.is_sure and e.effect > 0]),
        ("harms", ORANGE, "diamond", [e for e in found if e.is_sure and e.effect < 0]),
        ("not sure", GREY, "circle-open", [e for e in found if not e.is_sure]),
    ):
        if mine:
            data.append(
                {
                    "type": "scatter",
                    "mode": "markers",
                    "name": name,
                    "x": [at(e.layers.indices[0]) for e in mine],
                    "y": hundredths([e.effect for e in mine]),
                    "customdata": [e.sets for e in mine],
                    "error_y": {
                        "type": "data",
                        "array": hundredths([e.ci_high - e.effect for e in mine]),
                        "color": colour,
                        "thickness": 2,
                        "width": 0,
                    },
                    "marker": {
                        "size": 9,
                        "color": colour,
                        "symbol": symbol,
                        "line": {"width": 2, "color": colour},
                    },
                    "hovertemplate": (
                        "layer %{x}: %{y:+.1f} points<br>in %{customdata} evaluated sets"
                        "<extra></extra>"
                    ),
                }
            )
    ranked = sorted(found, key=lambda e: -e.effect)
    best = ", ".join(
        f"layer {shown(e.layers, view.donors)} ({points(e.effect)})" for e in ranked[:4]
    )
    return Figure(
        name="layer-effects",
        title="What each layer adds",
        short="Layer effects",
        alt=f"Dots with 95 % intervals, a layer each. Most is added by {best}, in points.",
        note=(
            "The score with the layer less that without it, averaged over the sets that the "
            "search evaluated, from a model of main effects, pairs and triples. An interval that "
            "holds 0 says that the layer may be worth nothing."
        ),
        plot={
            "data": data,
            "layout": layout(
                xaxis=axis(
                    "layer",
                    showgrid=False,
                    range=[-0.7, view.n_choices - 0.3],
                    tick0=0,
                    dtick=1 if view.n_choices <= 16 else 2,
                    **_in_order(view, several),
                ),
                yaxis=axis("points added", zeroline=True, zerolinecolor=SOFT, zerolinewidth=1),
            ),
        },
        height=400,
        head=("layer", "adds, points", "95 % interval", "in evaluated sets"),
        rows=[
            (
                shown(e.layers, view.donors),
                points(e.effect),
                f"{points(e.ci_low)} to {points(e.ci_high)}",
                e.sets,
            )
            for e in found
        ],
    )


def _in_order(view: StudyView, several: bool) -> dict[str, Any]:
    """An axis of names, in the order of the layers."""
    if not several:
        return {}
    names = [view.label(i) for i in range(view.n_choices)]
    return {"type": "category", "categoryorder": "array", "categoryarray": names}


def _bar(title: str) -> dict[str, Any]:
    """The scale of colours beside a heat map."""
    return {
        "title": {"text": title, "side": "top"},
        "thickness": 12,
        "outlinewidth": 0,
        "lenmode": "pixels",
        "len": 240,
        "y": 1,
        "yanchor": "top",
    }


def pair_synergy(view: StudyView) -> Figure | None:
    """What two layers add together beyond the sum of both, as a heat map."""
    found = view.effects
    if found is None:
        return None
    n = view.n_choices
    labels = [view.label(i) for i in range(n)]
    values = [hundredths([float(v) for v in row], 1) for row in found.synergy]
    text = [
        [
            ""
            if found.synergy[i, j] != found.synergy[i, j]
            else f"layers {labels[i]} and {labels[j]}: "
            f"{points(float(found.synergy[i, j]))} points, ± {100 * float(found.half[i, j]):.1f}"
            for j in range(n)
        ]
        for i in range(n)
    ]
    most = max((abs(v) for row in values for v in row if v is not None), default=1.0) or 1.0
    sure = [e for e in found.pairs if e.is_sure]
    told = "; ".join(f"{shown(e.layers, view.donors)}: {points(e.effect)} points" for e in sure[:4])
    labels = [view.label(i) for i in range(n)]
    ends = [e.layers.indices for e in sure]
    dots = [
        {
            "type": "scatter",
            "mode": "markers",
            "x": [labels[i] for pair in ends for i in pair],
            "y": [labels[i] for pair in ends for i in reversed(pair)],
            "marker": {"size": 5, "color": SURFACE, "line": {"width": 1, "color": INK}},
            "hoverinfo": "skip",
            "showlegend": False,
        }
    ]
    return Figure(
        name="pair-synergy",
        title="Which layers help each other",
        short="Pair synergy",
        alt=(
            f"Heat map of {n} by {n} layers. Strongest: {told}."
            if told
            else f"Heat map of {n} by {n} layers; no pair is surely more or less than its sum."
        ),
        note=(
            "Points that two layers add together beyond the sum of what each adds alone: blue "
            "they need each other, red they do the same work; a dot where the 95 % interval "
            "excludes 0. From the same model; empty where no evaluated set holds both. The table "
            "lists the surest pairs."
        ),
        plot={
            "data": [
                {
                    "type": "heatmap",
                    "x": labels,
                    "y": labels,
                    "z": values,
                    "text": text,
                    "hovertemplate": "%{text}<extra></extra>",
                    "hoverongaps": False,
                    "colorscale": scale(DIVERGING),
                    "zmin": -most,
                    "zmax": most,
                    "xgap": 1,
                    "ygap": 1,
                    "colorbar": _bar("points"),
                },
                *dots,
            ],
            "layout": layout(
                xaxis=axis("layer", type="category", showgrid=False, tickangle=0),
                yaxis=axis("layer", type="category", showgrid=False, autorange="reversed"),
                plot_bgcolor=SURFACE,
            ),
        },
        height=560,
        square=True,
        open=True,
        head=("layers", "points", "95 % interval", "sets"),
        rows=[
            (
                shown(e.layers, view.donors),
                points(e.effect),
                f"{points(e.ci_low)} to {points(e.ci_high)}",
                e.sets,
            )
            for e in found.pairs[:PAIRS]
        ],
    )


def evolution(view: StudyView) -> Figure | None:
    """How the patterns evolved: what share of the best sets held each layer, by generation."""
    found = view.generations
    if not found or not view.n_layers:
        return None
    names = ["probe" if g.number < 0 else str(g.number) for g in found]
    last = found[-1]
    held = sorted(range(view.n_choices), key=lambda i: -last.share[i])[:4]
    told = ", ".join(f"layer {view.label(i)} {percent(last.share[i], 0)}" for i in held)
    shares = [[round(100 * g.share[layer]) for g in found] for layer in range(view.n_choices)]
    return Figure(
        name="evolution",
        title="How the patterns evolved",
        short="Evolution",
        alt=(
            f"Heat map of layers over {len(found)} generations: share of the best 20 sets so far "
            f"that hold a layer. At the end: {told}."
        ),
        note=(
            "What the search has learnt by each generation, by the scores on the first questions, "
            "which all sets have answered. The table names the pairs that the best sets share most."
        ),
        plot={
            "data": [
                {
                    "type": "heatmap",
                    "x": names,
                    "y": [view.label(i) for i in range(view.n_choices)],
                    "z": shares,
                    "zmin": 0,
                    "zmax": 100,
                    "colorscale": scale(RAMP),
                    "xgap": 1,
                    "ygap": 1,
                    "hovertemplate": (
                        "generation %{x}, layer %{y}<br>%{z} % of the best sets<extra></extra>"
                    ),
                    "colorbar": _bar("% of best"),
                }
            ],
            "layout": layout(
                xaxis=axis("generation", type="category", showgrid=False),
                yaxis=axis("layer", type="category", showgrid=False, autorange="reversed"),
            ),
        },
        height=160 + 18 * view.n_choices,
        head=(
            "generation",
            "new sets",
            "best first score",
            "most shared pairs (sets of the best 20)",
        ),
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
