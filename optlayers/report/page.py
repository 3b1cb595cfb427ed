"""The page: a report as one HTML file that asks the network for nothing.

The figures are data, drawn by plotly's own script, which lies gzipped in the file (a third of its
size) and is unpacked by the browser.
"""

from __future__ import annotations

import base64
import functools
import gzip
import json
import re
from collections.abc import Sequence
from importlib import resources
from typing import Any

import jinja2
import yaml
from markupsafe import Markup

from optlayers import __version__
from optlayers.report.figure import Figure
from optlayers.report.notes import called
from optlayers.report.tables import (
    cost_table,
    failures_table,
    held_out_table,
    lead,
    leaderboard_table,
    tiles,
    versions_table,
    workers_table,
)
from optlayers.report.theme import DARK
from optlayers.results.view import StudyView

ROWS = 200
_MINUS = re.compile(r"(?<![\w.-])-(?=\d)")
_NUMBER = re.compile(r"[<+-]?[\d,]+(\.\d+)?( (to|of) [+-]?[\d,]+(\.\d+)?)?( (%|s|min|h.*))?")


def page(view: StudyView, figures: Sequence[Figure]) -> str:
    """The report as HTML."""
    folder = resources.files("optlayers.report")
    environment = jinja2.Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True)
    environment.filters.update(typeset=typeset, numeric=numeric)
    template = environment.from_string((folder / "page.html.j2").read_text("utf-8"))
    held_out, failed = held_out_table(view), failures_table(view)
    contents = [
        ("leaderboard", "Leaderboard"),
        *([("held-out", "Held-out check")] if held_out else []),
        *((f.name, f.short) for f in figures),
        ("cost", "Cost"),
        *([("failures", "Without a result")] if failed else []),
        ("machines", "Hardware and versions"),
        ("definition", "Definition"),
    ]
    return template.render(
        title=f"{view.definition.name}: optlayers search report",
        css=Markup((folder / "page.css").read_text("utf-8")),
        js=Markup((folder / "page.js").read_text("utf-8")),
        name=view.definition.name,
        fingerprint=view.definition.fingerprint(),
        made=made(view),
        lead=lead(view),
        tiles=tiles(view),
        contents=contents,
        leaderboard=leaderboard_table(view, ROWS),
        held_out=held_out,
        figures=figures,
        cost=cost_table(view),
        failures=failed,
        workers=workers_table(view),
        versions=versions_table(view),
        command=f"optlayers search --study {called(view.definition.name)}",
        definition=definition_text(view),
        version=__version__,
        figures_json=_embedded({f.name: {**f.plot, "height": f.height} for f in figures}),
        dark_json=_embedded(DARK),
        plotly=packed_plotly(),
    )


def typeset(text: Any) -> str:
    """Text as one prints it: a true minus, and no line that begins with the per cent sign."""
    return _MINUS.sub("\u2212", str(text)).replace(" %", "\u00a0%")


def numeric(rows: Sequence[Sequence[Any]], column: int) -> bool:
    """Whether a column holds numbers (with intervals and units), which stand under each other."""
    texts = [row[column]["text"] if isinstance(row[column], dict) else row[column] for row in rows]
    known = [str(text) for text in texts if text not in (None, "")]
    return bool(known) and all(_NUMBER.fullmatch(text) for text in known)


def definition_text(view: StudyView) -> str:
    """The study's definition as YAML, as one would write it."""
    text: str = yaml.safe_dump(
        view.definition.to_dict(),
        sort_keys=False,
        default_flow_style=None,
        width=90,
        allow_unicode=True,
    )
    return text


def made(view: StudyView) -> str:
    """When the study was read."""
    return view.made.strftime("%Y-%m-%d %H:%M %Z")


def _embedded(data: Any) -> Markup:
    """JSON that no HTML parser takes for an end of the script."""
    text = json.dumps(data, separators=(",", ":"), ensure_ascii=False, allow_nan=False)
    return Markup(text.replace("<", "\\u003c"))


@functools.cache
def packed_plotly() -> Markup:
    """plotly's script as the installed package has it, gzipped, in base64."""
    script = (resources.files("plotly") / "package_data" / "plotly.min.js").read_bytes()
    return Markup(base64.b64encode(gzip.compress(script, 9, mtime=0)).decode("ascii"))
