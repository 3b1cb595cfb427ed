"""Figures of layers: what each adds, what pairs add together, and what the search learnt when."""

from __future__ import annotations

from typing import Any

from optlayers.report.data import Report
from optlayers.report.effects import Effect
from optlayers.report.figure import Figure, hundredths, percent, points
from optlayers.report.theme import (
    BLUE,
    DIVERGING,
    ORANGE,
    RAMP,
    SOFT,
    SURFACE,
    axis,
    layout,
    scale,
)

PAIRS = 40


def _dots(effects: list[Effect], name: str, colour: str, shift: float) -> dict[str, Any]:
    return {
        "type": "scatter",
        "mode": "markers",
        "name": name,
        "x": [layer + shift for layer in range(len(effects))],
        "y": hundredths([e.mean for e in effects]),
        "customdata": list(range(len(effects))),
        "error_y": {
            "type": "data",
            "array": hundredths([e.high - e.mean for e in effects]),
            "color": colour,
            "thickness": 1.5,
            "width": 0,
        },
        "marker": {"size": 8, "color": colour},
        "hovertemplate": "layer %{customdata}<br>%{y:+.1f} points<extra>" + name + "</extra>",
    }


def layer_effects(report: Report) -> Figure | None:
    """What each layer adds by itself and to good sets, with 95 % intervals."""
    found = report.effects
    if found is None:
        return None
    ranked = sorted(range(report.n_layers), key=lambda i: -found.company[i].mean)
    best = ", ".join(f"layer {i} ({points(found.company[i].mean)})" for i in ranked[:4])
    return Figure(
        name="layer-effects",
        title="What each layer adds",
        alt=f"Dots with 95 % intervals, a layer each. Most is added to good sets by {best} points.",
        note=(
            "From a model of main effects, pairs and triples of all evaluated sets. Alone: a set "
            "of that layer only, against the base. In good company: the mean over the best sets "
            "of the score with the layer less that without. A dot whose interval holds 0 may be "
            "worth nothing."
        ),
        plot={
            "data": [
                _dots(found.alone, "alone", ORANGE, -0.16),
                _dots(found.company, "in good company", BLUE, 0.16),
            ],
            "layout": layout(
                xaxis=axis("layer", showgrid=False, range=[-0.7, report.n_layers - 0.3], tick0=0,
                           dtick=1 if report.n_layers <= 16 else 2),
                yaxis=axis("points added", zeroline=True, zerolinecolor=SOFT, zerolinewidth=1),
            ),
        },
        height=400,
        head=("layer", "alone, points", "95 % interval", "in good company", "95 % interval"),
        rows=[
            (
                layer,
                points(alone.mean),
                f"{points(alone.low)} to {points(alone.high)}",
                points(company.mean),
                f"{points(company.low)} to {points(company.high)}",
            )
            for layer, (alone, company) in enumerate(zip(found.alone, found.company, strict=True))
        ],
    )  # fmt: skip


def pair_synergy(report: Report) -> Figure | None:
    """What two layers add together beyond the sum of both, as a heat map."""
    found = report.effects
    if found is None:
        return None
    n = report.n_layers
    values = [hundredths([float(v) for v in row], 1) for row in found.synergy]
    text = [
        [
            ""
            if i == j
            else f"layers {i} and {j}: {points(float(found.synergy[i, j]))} points, "
            f"± {100 * float(found.half[i, j]):.1f}"
            + ("" if found.tried[i, j] else "; never tried together")
            for j in range(n)
        ]
        for i in range(n)
    ]
    most = max((abs(v) for row in values for v in row if v is not None), default=1.0) or 1.0
    sure = [p for p in found.pairs() if p[2].low > 0 or p[2].high < 0]
    told = "; ".join(f"{i} and {j}: {points(e.mean)} points" for i, j, e in sure[:4])
    labels = [str(i) for i in range(n)]
    return Figure(
        name="pair-synergy",
        title="Which layers help each other",
        alt=(
            f"Heat map of {n} by {n} layers. Surest: {told}."
            if told
            else f"Heat map of {n} by {n} layers; no pair is surely more or less than its sum."
        ),
        note=(
            "Points that two layers add together beyond the sum of what each adds alone: blue "
            "they need each other, red they do the same work. From the same model; the table "
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
                    "colorbar": {
                        "title": {"text": "points", "side": "top"},
                        "thickness": 12,
                        "outlinewidth": 0,
                        "len": 0.9,
                    },
                }
            ],
            "layout": layout(
                xaxis=axis("layer", type="category", showgrid=False, tickangle=0),
                yaxis=axis("layer", type="category", showgrid=False, autorange="reversed"),
                plot_bgcolor=SURFACE,
            ),
        },
        height=520,
        head=("layers", "synergy, points", "95 % interval", "tried together"),
        rows=[
            (
                f"{i}, {j}",
                points(e.mean),
                f"{points(e.low)} to {points(e.high)}",
                "yes" if found.tried[i, j] else "no",
            )
            for i, j, e in found.pairs()[:PAIRS]
        ],
    )


def evolution(report: Report) -> Figure | None:
    """How the patterns evolved: what share of the best sets held each layer, by generation."""
    found = report.generations
    if not found or not report.n_layers:
        return None
    names = ["probe" if g.number < 0 else str(g.number) for g in found]
    last = found[-1]
    held = sorted(range(report.n_layers), key=lambda i: -last.share[i])[:4]
    told = ", ".join(f"layer {i} {percent(last.share[i], 0)}" for i in held)
    shares = [[round(100 * g.share[layer]) for g in found] for layer in range(report.n_layers)]
    return Figure(
        name="evolution",
        title="How the patterns evolved",
        alt=(
            f"Heat map of layers over {len(found)} generations: share of the best 20 sets so far "
            f"that hold a layer. At the end: {told}."
        ),
        note=(
            "What the search has learnt by each generation. The table names the pairs that the "
            "best sets share most."
        ),
        plot={
            "data": [
                {
                    "type": "heatmap",
                    "x": names,
                    "y": [str(i) for i in range(report.n_layers)],
                    "z": shares,
                    "zmin": 0,
                    "zmax": 100,
                    "colorscale": scale(RAMP),
                    "xgap": 1,
                    "ygap": 1,
                    "hovertemplate": (
                        "generation %{x}, layer %{y}<br>%{z} % of the best sets<extra></extra>"
                    ),
                    "colorbar": {
                        "title": {"text": "% of best", "side": "top"},
                        "thickness": 12,
                        "outlinewidth": 0,
                        "len": 0.9,
                    },
                }
            ],
            "layout": layout(
                xaxis=axis("generation", type="category", showgrid=False),
                yaxis=axis("layer", type="category", showgrid=False, autorange="reversed"),
            ),
        },
        height=160 + 18 * report.n_layers,
        head=(
            "generation",
            "new sets",
            "best fast score",
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
