"""Figure: a picture, what it shows in words, and the table behind it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from optlayers.layerset import ONE, Donors, Labels, LayerSet

Cell = str | int | float | None


@dataclass(frozen=True)
class Figure:
    """One figure of the report.

    name: for files and anchors. short: its name in a list. alt: what one would see, in a sentence
    or two, for who cannot. note: how to read it. plot: `data` and `layout` of plotly. head, rows:
    the table behind it; open: it is as much worth reading as the figure. square: as high as wide,
    with the table beside it where there is room.
    """

    name: str
    title: str
    short: str
    alt: str
    note: str
    plot: dict[str, Any]
    height: int
    head: Sequence[str]
    rows: Sequence[Sequence[Cell]]
    open: bool = False
    square: bool = False


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


def shown(layers: Labels | LayerSet, donors: Donors = ONE) -> str:
    """`0, 10, 11`, or `none`; with several donors `0@a, 10@b`."""
    labels = layers.labels(donors) if isinstance(layers, LayerSet) else layers
    return ", ".join(map(str, labels)) or "none"


def given_by(definition: dict[str, Any]) -> list[str]:
    """The models of a definition's donors."""
    if "donors" in definition:
        return [f"{spec['model']} ({spec['name']})" for spec in definition["donors"]]
    return [definition["donor"]["model"]]


def plain_names(names: Sequence[str]) -> list[str]:
    """Names of tasks as one would say them: without what all begin with, and with spaces.

    `mmlu_anatomy`, `mmlu_world_religions` as `anatomy`, `world religions`.
    """
    parts = [name.split("_") for name in names]
    while len(parts) > 1 and len({p[0] for p in parts}) == 1 and all(len(p) > 1 for p in parts):
        parts = [p[1:] for p in parts]
    return [" ".join(p).strip() or name for p, name in zip(parts, names, strict=True)]


def hundredths(values: Sequence[float | None], digits: int = 2) -> list[float | None]:
    """Shares as per cent, rounded so that files stay small."""
    return [None if v is None or v != v else round(100 * v, digits) for v in values]
