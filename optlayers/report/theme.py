"""Colours and the common look of all figures; each colour has a twin for dark backgrounds.

Figures are written in the light colours; the page swaps them where the reader prefers dark ones.
"""

from __future__ import annotations

from typing import Any

BLUE, ORANGE, AQUA, YELLOW, VIOLET = "#2a78d6", "#d9541e", "#14936a", "#b98200", "#4a3aa7"
MAGENTA, GREY, INK, SOFT, GRID = "#c2418a", "#8a8880", "#0b0b0b", "#52514e", "#e4e3df"
SURFACE, BAND = "#fcfcfb", "#f1f0ec"

# From nothing to much, and from clash through nothing to synergy.
RAMP = ("#f1f0ed", "#b7d3f6", "#6da7ec", "#2a79d7", "#104281")
DIVERGING = ("#a5352b", "#e5927e", "#f0efec", "#86b6ef", "#1c5cab")

PHASES = {"probe": VIOLET, "explore": BLUE, "validate": AQUA, "refine": ORANGE}
SEARCHES = (ORANGE, AQUA, YELLOW, MAGENTA, VIOLET, GREY)

DARK = {
    BLUE: "#5598e7",
    ORANGE: "#ef7b4a",
    AQUA: "#2bb98a",
    YELLOW: "#d9a21b",
    VIOLET: "#9085e9",
    MAGENTA: "#dd6fa9",
    GREY: "#97958d",
    INK: "#ffffff",
    SOFT: "#c3c2b7",
    GRID: "#34332f",
    SURFACE: "#1a1a19",
    BAND: "#232320",
    RAMP[0]: "#242422",
    RAMP[1]: "#184f95",
    RAMP[2]: "#2b6dbf",
    RAMP[3]: "#6da8ed",
    RAMP[4]: "#d5e6fb",
    DIVERGING[0]: "#f0866f",
    DIVERGING[1]: "#8f3b2e",
    DIVERGING[2]: "#2c2c2a",
    DIVERGING[3]: "#1f5597",
    DIVERGING[4]: "#7fb4f5",
}

FONT = 'system-ui, -apple-system, "Segoe UI", Roboto, "DejaVu Sans", sans-serif'


def scale(colours: tuple[str, ...]) -> list[list[Any]]:
    """A colour scale of plotly from evenly spaced colours."""
    return [[i / (len(colours) - 1), colour] for i, colour in enumerate(colours)]


def axis(title: str, **more: Any) -> dict[str, Any]:
    """An axis in the common look."""
    return {
        "title": {"text": title, "standoff": 8},
        "gridcolor": GRID,
        "linecolor": GRID,
        "zeroline": False,
        "automargin": True,
        "ticks": "",
        **more,
    }


def layout(**more: Any) -> dict[str, Any]:
    """The layout that all figures begin with; titles are the page's."""
    return {
        "font": {"family": FONT, "size": 13, "color": SOFT},
        "paper_bgcolor": SURFACE,
        "plot_bgcolor": SURFACE,
        "margin": {"l": 8, "r": 12, "t": 12, "b": 8},
        "legend": {
            "orientation": "h",
            "x": 0,
            "y": 1.02,
            "yanchor": "bottom",
            "xanchor": "left",
            "bgcolor": "rgba(0,0,0,0)",
        },
        "hoverlabel": {"bgcolor": SURFACE, "bordercolor": GRID, "font": {"color": INK}},
        "hovermode": "closest",
        "bargap": 0.35,
        **more,
    }
