"""Numbers, layers and durations as text."""

from __future__ import annotations

from collections.abc import Sequence

from optlayers.layerset import Labels


def percent(share: float | None, digits: int = 1) -> str:
    """`0.974` as `97.4 %`."""
    return "" if share is None else f"{100 * share:.{digits}f} %"


def interval(low: float, high: float) -> str:
    """`94.4 to 98.8 %`."""
    return f"{100 * low:.1f} to {100 * high:.1f} %"


def points(share: float | None) -> str:
    """A difference of scores in percentage points, with its sign; `0.0` has none."""
    if share is None:
        return ""
    value = round(100 * share, 1)
    return f"{value:+.1f}" if value else "0.0"


def p_text(p_value: float | None) -> str:
    """A p-value to three digits; `<0.001` for less."""
    if p_value is None:
        return ""
    return "<0.001" if p_value < 0.0005 else f"{p_value:.3f}"


def layers_text(layers: Labels) -> str:
    """`0, 10, 11`, or `none`; with several donors `0@a, 10@b`."""
    return ", ".join(map(str, layers)) or "none"


def duration(seconds: float) -> str:
    """`54 s`, `12 min`, `3 h 20 min`."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 90 else f"{minutes // 60} h {minutes % 60:02d} min"


def short_names(names: Sequence[str]) -> list[str]:
    """Names of tasks without their common first words, and with spaces.

    `mmlu_anatomy`, `mmlu_world_religions` as `anatomy`, `world religions`.
    """
    parts = [name.split("_") for name in names]
    while len(parts) > 1 and len({p[0] for p in parts}) == 1 and all(len(p) > 1 for p in parts):
        parts = [p[1:] for p in parts]
    return [" ".join(p).strip() or name for p, name in zip(parts, names, strict=True)]


def hundredths(values: Sequence[float | None], digits: int = 2) -> list[float | None]:
    """Shares as per cent, rounded to keep the files small; None for NaN."""
    return [None if v is None or v != v else round(100 * v, digits) for v in values]
