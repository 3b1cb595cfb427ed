"""The page: a report as one HTML file that loads nothing from the network.

The figures are data, drawn by plotly's own script. The script is gzipped in the file (a third of
its size) and unpacked by the browser.
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
from markupsafe import Markup

from optlayers import __version__
from optlayers.report.document import definition_text, figures, made, study_argument
from optlayers.report.section import DARK, Cell, Section
from optlayers.report.tables import lead, tiles
from optlayers.results.view import StudyView

_MINUS = re.compile(r"(?<![\w.-])-(?=\d)")
_NUMBER = re.compile(r"[<+-]?[\d,]+(\.\d+)?( (to|of) [+-]?[\d,]+(\.\d+)?)?( (%|s|min|h.*))?")


def page(view: StudyView, sections: Sequence[Section]) -> str:
    """The report as HTML."""
    folder = resources.files("optlayers.report")
    environment = jinja2.Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True)
    environment.filters.update(typeset=typeset, numeric=numeric)
    template = environment.from_string((folder / "page.html.j2").read_text("utf-8"))
    plots = {s.name: {**(s.plot or {}), "height": s.height} for s in figures(sections)}
    return template.render(
        name=view.definition.name,
        css=Markup((folder / "page.css").read_text("utf-8")),
        js=Markup((folder / "page.js").read_text("utf-8")),
        lead=lead(view),
        tiles=tiles(view),
        sections=sections,
        fingerprint=view.definition.fingerprint(),
        command=f"optlayers search --study {study_argument(view.definition.name)}",
        definition=definition_text(view.definition),
        made=made(view),
        version=__version__,
        figures_json=_embedded(plots),
        dark_json=_embedded(DARK),
        plotly=packed_plotly(),
    )


def typeset(text: Any) -> str:
    """Text with a true minus sign, and no line break before a per cent sign."""
    return _MINUS.sub("\u2212", str(text)).replace(" %", "\u00a0%")


def numeric(rows: Sequence[Sequence[Cell]], column: int) -> bool:
    """Whether a column holds numbers (with intervals and units), which are aligned right."""
    texts = [str(row[column]) for row in rows if row[column] not in (None, "")]
    return bool(texts) and all(_NUMBER.fullmatch(text) for text in texts)


def _embedded(data: Any) -> Markup:
    """JSON in which no HTML parser finds the end of the script."""
    text = json.dumps(data, separators=(",", ":"), ensure_ascii=False, allow_nan=False)
    return Markup(text.replace("<", "\\u003c"))


@functools.cache
def packed_plotly() -> Markup:
    """The script of the installed plotly, gzipped, in base64."""
    script = (resources.files("plotly") / "package_data" / "plotly.min.js").read_bytes()
    return Markup(base64.b64encode(gzip.compress(script, 9, mtime=0)).decode("ascii"))
