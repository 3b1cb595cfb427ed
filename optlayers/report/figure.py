"""Figure: a picture, what it shows in words, and the table behind it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from optlayers.layerset import LayerSet

Cell = str | int | float | None


@dataclass(frozen=True)
class Figure:
    """One figure of the report.

    name: for files and anchors. alt: what one would see, in a sentence or two, for who cannot.
    note: how to read it. plot: `data` and `layout` of plotly. head, rows: the table behind it.
    """

    name: str
    title: str
    alt: str
    note: str
    plot: dict[str, Any]
    height: int
    head: Sequence[str]
    rows: Sequence[Sequence[Cell]]


def percent(share: float | None, digits: int = 1) -> str:
    """`0.974` as `97.4 %`."""
    return "" if share is None else f"{100 * share:.{digits}f} %"


def interval(low: float, high: float) -> str:
    """`94.4 to 98.8 %`."""
    return f"{100 * low:.1f} to {100 * high:.1f} %"


def points(share: float | None, digits: int = 1) -> str:
    """A difference of scores in points, with its sign; never a minus zero."""
    if share is None:
        return ""
    value = round(100 * share, digits)
    return f"{value + 0.0:+.{digits}f}" if value else f"{0:.{digits}f}"


def chance(p_value: float | None) -> str:
    """A p-value to three digits; `<0.001` for less."""
    if p_value is None:
        return ""
    return "<0.001" if p_value < 0.0005 else f"{p_value:.3f}"


def shown(layers: Sequence[int] | LayerSet) -> str:
    """`0, 10, 11`, or `none`."""
    return ", ".join(map(str, layers)) or "none"


def hundredths(values: Sequence[float | None], digits: int = 2) -> list[float | None]:
    """Shares as per cent, rounded so that files stay small."""
    return [None if v is None or v != v else round(100 * v, digits) for v in values]
