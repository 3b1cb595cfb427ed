"""Sections of a report: notes, tables and figures, and the common look of the figures."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

Cell = str | int | float | None
Item = TypeVar("Item")

# Light colours. `DARK` has those that the page uses where the reader prefers a dark background.
BLUE, ORANGE, AQUA, YELLOW, VIOLET = "#2a78d6", "#d9541e", "#14936a", "#b98200", "#4a3aa7"
MAGENTA, GREY, INK, SOFT, GRID = "#c2418a", "#8a8880", "#0b0b0b", "#52514e", "#e4e3df"
SURFACE = "#fcfcfb"
# From zero to the maximum, and from negative through zero to positive.
RAMP = ("#f1f0ed", "#b7d3f6", "#6da7ec", "#2a79d7", "#104281")
DIVERGING = ("#a5352b", "#e5927e", "#f0efec", "#86b6ef", "#1c5cab")

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
    **dict(zip(RAMP, ("#242422", "#184f95", "#2b6dbf", "#6da8ed", "#d5e6fb"), strict=True)),
    **dict(zip(DIVERGING, ("#f0866f", "#8f3b2e", "#2c2c2a", "#1f5597", "#7fb4f5"), strict=True)),
}

FONT = 'system-ui, -apple-system, "Segoe UI", Roboto, "DejaVu Sans", sans-serif'


@dataclass(frozen=True)
class Section:
    """A section of the report: a table, and where there is a plot the figure of that table.

    name: for anchors and files. note: how to read it. short: its name in the contents. plot: `data`
    and `layout` of plotly. alt: what the plot shows, in words. height: in pixels. expanded: whether
    the table behind the plot is shown at once. square: the plot is as high as wide, with the table
    next to it. sortable: whether the page sorts the table.
    """

    name: str
    title: str
    note: str = ""
    head: Sequence[str] = ()
    rows: Sequence[Sequence[Cell]] = ()
    short: str = ""
    plot: dict[str, Any] | None = None
    alt: str = ""
    height: int = 0
    expanded: bool = False
    square: bool = False
    sortable: bool = True


def table(items: Sequence[Item], columns: Mapping[str, Callable[[Item], Cell]]) -> dict[str, Any]:
    """`head` and `rows` of a section: a column for each name, and a row for each item.

    Columns in which all cells are empty are left out.
    """
    found = {name: [cell(item) for item in items] for name, cell in columns.items()}
    found = {name: cells for name, cells in found.items() if set(cells) - {"", None}}
    return {"head": list(found), "rows": list(zip(*found.values(), strict=True))}


def axis(title: str, **more: Any) -> dict[str, Any]:
    """An axis in the common look."""
    common = {"gridcolor": GRID, "linecolor": GRID, "zeroline": False, "automargin": True}
    return {"title": {"text": title, "standoff": 8}, **common, "ticks": "", **more}


def name_axis(names: Sequence[Any], title: str = "", **more: Any) -> dict[str, Any]:
    """An axis of names in their order."""
    order = {"categoryorder": "array", "categoryarray": list(names)}
    return axis(title, type="category", **order, **{"showgrid": False, **more})


def row_axis(names: Sequence[str]) -> dict[str, Any]:
    """A vertical axis with a row for each name, from the bottom up."""
    return name_axis(names, range=[-0.6, len(names) - 0.4], tickmode="linear")


def plot(data: list[dict[str, Any]], **layout: Any) -> dict[str, Any]:
    """A plot in the common look; its title is in the page."""
    legend = {"orientation": "h", "x": 0, "y": 1.02, "yanchor": "bottom", "xanchor": "left"}
    common = {
        "font": {"family": FONT, "size": 13, "color": SOFT},
        "paper_bgcolor": SURFACE,
        "plot_bgcolor": SURFACE,
        "margin": {"l": 8, "r": 12, "t": 12, "b": 8},
        "legend": {**legend, "bgcolor": "rgba(0,0,0,0)"},
        "hoverlabel": {"bgcolor": SURFACE, "bordercolor": GRID, "font": {"color": INK}},
        "hovermode": "closest",
        "bargap": 0.35,
    }
    return {"data": data, "layout": {**common, **layout}}


def dots(
    name: str, x: Sequence[Any], y: Sequence[Any], colour: str, hover: str, **more: Any
) -> dict[str, Any]:
    """Points of a scatter plot.

    more: `symbol`, `size`, `opacity`, `outline` (pixels), or other keys of the trace.
    """
    return {
        "type": "scatter",
        "mode": "markers",
        "name": name,
        "x": x,
        "y": y,
        "marker": {
            "size": more.pop("size", 9),
            "symbol": more.pop("symbol", "circle"),
            "color": colour,
            "opacity": more.pop("opacity", 1),
            "line": {"width": more.pop("outline", 2), "color": colour},
        },
        "hovertemplate": hover,
        **more,
    }


def line(
    name: str, x: Sequence[Any], y: Sequence[Any], colour: str, hover: str = "", **more: Any
) -> dict[str, Any]:
    """A line; without a name it is neither in the legend nor hovered.

    more: `width`, `dash`, `shape`, or other keys of the trace.
    """
    look = {key: more.pop(key) for key in ("width", "dash", "shape") if key in more}
    return {
        "type": "scatter",
        "mode": "lines",
        "x": x,
        "y": y,
        "line": {"color": colour, **look},
        **({"name": name, "hovertemplate": hover} if name else {"hoverinfo": "skip"}),
        "showlegend": bool(name),
        **more,
    }


def heatmap(
    names: tuple[Sequence[str], Sequence[str]],
    values: Sequence[Sequence[float | None]],
    colours: Sequence[str],
    low: float,
    unit: str,
    **more: Any,
) -> dict[str, Any]:
    """A heat map of values[y][x] from `low` to its maximum, with names along x and y."""
    return {
        "type": "heatmap",
        "x": names[0],
        "y": names[1],
        "z": values,
        "zmin": low,
        "colorscale": [[i / (len(colours) - 1), colour] for i, colour in enumerate(colours)],
        "xgap": 1,
        "ygap": 1,
        "colorbar": {
            "title": {"text": unit, "side": "top"},
            "thickness": 12,
            "outlinewidth": 0,
            "lenmode": "pixels",
            "len": 240,
            "y": 1,
            "yanchor": "top",
        },
        **more,
    }
