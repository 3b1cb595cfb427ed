"""`optlayers patterns`: what a search has learned about the layers."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from optlayers.cli.app import JsonOption, StorageOption, StudyOption, app, at_least
from optlayers.storage.connect import DEFAULT_URL

if TYPE_CHECKING:
    from collections.abc import Sequence

    from rich.table import Table

    from optlayers.layerset import Donors
    from optlayers.search import Effect, Explanation


@app.command()
def patterns(
    study: StudyOption = "demo",
    storage: StorageOption = DEFAULT_URL,
    top: Annotated[int, typer.Option("--top", help="Rows of each table.")] = 10,
    json: JsonOption = False,
) -> None:
    """Show which layers help or harm, which work together, and how sure that is."""
    from optlayers.cli.stored import study_of
    from optlayers.cli.tables import console, print_json
    from optlayers.errors import InputError
    from optlayers.search import explain
    from optlayers.storage.connect import open_study, storage_errors
    from optlayers.trials import keys
    from optlayers.trials.records import read_records

    at_least("--top", top, 1)
    definition = study_of(study, storage)
    opened = open_study(storage, definition, create=False)
    with storage_errors(storage):
        n_layers = int(opened.user_attrs.get(keys.N_LAYERS, 0))
        donors = definition.donor_names
        records = read_records(opened.get_trials(deepcopy=False))
    found = explain(records, n_layers, len(donors)) if n_layers else None
    if found is None:
        raise InputError(
            f"study {definition.name!r} has too few evaluated layer sets to learn from; expected "
            "one for each layer or more, so search on"
        )
    if json:
        print_json(_data(found, donors))
        return
    out = console()
    title = f"{definition.name}: what {found.sets} layer sets say, in points of the score"
    out.print(_effects(found.layers, f"{title}\nadding a layer", top, _helps, donors))
    title = "pairs: beyond what the two add one by one"
    out.print(_effects(found.pairs, title, top, _joins, donors))
    if found.triples:
        out.print(_effects(found.triples, "triples: beyond their pairs", top, _joins, donors))
    out.print(_patterns(found, top, donors))


def _helps(effect: Effect) -> str:
    return ("helps" if effect.effect > 0 else "harms") if effect.is_sure else "not sure"


def _joins(effect: Effect) -> str:
    if not effect.is_sure:
        return "not sure"
    return "work together" if effect.effect > 0 else "replace each other"


def _effects(
    effects: Sequence[Effect], title: str, top: int, verdict: Any, donors: Donors
) -> Table:
    """A table of effects, strongest first; points are hundredths of the score."""
    from rich.table import Table

    table = Table(title=title, title_justify="left")
    for name in ("layers", "points", "95 % interval", "sets"):
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column("", no_wrap=True)
    for effect in sorted(effects, key=lambda e: (not e.is_sure, -abs(e.effect)))[:top]:
        table.add_row(
            effect.layers.text(donors),
            f"{100 * effect.effect:+.1f}",
            f"{100 * effect.ci_low:+.1f} to {100 * effect.ci_high:+.1f}",
            str(effect.sets),
            verdict(effect),
        )
    return table


def _patterns(found: Explanation, top: int, donors: Donors) -> Table:
    from rich.table import Table

    table = Table(title="what the 20 best sets share", title_justify="left")
    for name in ("layers", "in sets", "mean score", "synergy"):
        table.add_column(name, justify="right", no_wrap=True)
    for pattern in sorted(found.patterns, key=lambda p: -p.quality)[:top]:
        table.add_row(
            pattern.layers.text(donors),
            str(pattern.frequency),
            f"{100 * pattern.mean:.1f} %",
            f"{100 * pattern.synergy:+.1f}" if len(pattern.layers) > 1 else "",
        )
    return table


def _data(found: Explanation, donors: Donors) -> dict[str, Any]:
    """The explanation as plain data."""

    def effects(group: Sequence[Effect]) -> list[dict[str, Any]]:
        return [
            {
                "layers": e.layers.labels(donors),
                "effect": e.effect,
                "ci_low": e.ci_low,
                "ci_high": e.ci_high,
                "sets": e.sets,
                "sure": e.is_sure,
            }
            for e in group
        ]

    return {
        "sets": found.sets,
        "layers": effects(found.layers),
        "pairs": effects(found.pairs),
        "triples": effects(found.triples),
        "patterns": [
            {
                "layers": p.layers.labels(donors),
                "frequency": p.frequency,
                "quality": p.quality,
                "mean": p.mean,
                "synergy": p.synergy,
            }
            for p in found.patterns
        ],
    }
