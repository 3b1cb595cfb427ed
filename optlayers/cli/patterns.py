"""`optlayers patterns`: what a search has learned about the layers."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from optlayers.cli import options as opt
from optlayers.cli.app import app
from optlayers.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from rich.console import Console

    from optlayers.layerset import LayerSpace
    from optlayers.search import Effect, Explanation

TOGETHER = ("work together", "replace each other")


@app.command()
def patterns(
    study: opt.Study = "demo",
    storage: opt.Storage = opt.DEFAULT_URL,
    top: Annotated[int, typer.Option(callback=opt.number(1), help="Rows of each table.")] = 10,
    json: opt.Json = False,
) -> None:
    """Show which layers help or harm, and which work together.

    Effects come from a model of all evaluated sets, each with its 95 % interval.
    """
    from optlayers.cli.tables import console, print_json
    from optlayers.search import explain

    view = opt.read_study(study, storage)
    space, name = view.space, view.definition.name
    found = explain(view.records, space) if view.n_layers else None
    if found is None:
        raise InputError(
            f"study {name!r} has too few evaluated layer sets to learn from; search "
            "until there is at least one per layer"
        )
    if json:
        print_json(_data(found, space))
        return
    out = console()
    for title, effects, meaning in (
        ("adding a layer", found.layers, ("helps", "harms")),
        ("pairs, beyond the sum of their layers", found.pairs, TOGETHER),
        ("triples, beyond their pairs", found.triples, TOGETHER),
    ):
        if effects:
            _print_effects(out, effects, title, top, meaning, space)
    _print_patterns(out, found, top, space)
    print(f"{name}: from {found.sets} layer sets; effects in points of the score")


def _print_effects(
    out: Console,
    effects: Sequence[Effect],
    title: str,
    top: int,
    meaning: tuple[str, str],
    space: LayerSpace,
) -> None:
    """A table of effects, the strongest first; `meaning` of positive and negative ones."""
    from optlayers.cli.tables import print_table

    rows = sorted(effects, key=lambda e: (not e.is_sure, -abs(e.effect)))[:top]
    columns = {
        "layers": [space.text(e.layers) for e in rows],
        "effect": [f"{100 * e.effect:+.1f}" for e in rows],
        "95 %": [f"{100 * e.ci_low:+.1f} to {100 * e.ci_high:+.1f}" for e in rows],
        "sets": [str(e.sets) for e in rows],
        "": [meaning[e.effect <= 0] if e.is_sure else "not sure" for e in rows],
    }
    print_table(out, title, columns, left=("layers", ""))


def _print_patterns(out: Console, found: Explanation, top: int, space: LayerSpace) -> None:
    from optlayers.cli.tables import print_table

    rows = sorted(found.patterns, key=lambda p: -p.quality)[:top]
    columns = {
        "layers": [space.text(p.layers) for p in rows],
        "in sets": [str(p.frequency) for p in rows],
        "mean score": [f"{100 * p.mean:.1f}" for p in rows],
        "synergy": [f"{100 * p.synergy:+.1f}" if len(p.layers) > 1 else "" for p in rows],
    }
    print_table(out, "what the 20 best sets share", columns)


def _data(found: Explanation, space: LayerSpace) -> dict[str, Any]:
    """The explanation as plain data."""

    def fields(item: Any, *names: str) -> dict[str, Any]:
        return {"layers": space.labels(item.layers), **{n: getattr(item, n) for n in names}}

    def effects(group: Sequence[Effect]) -> list[dict[str, Any]]:
        return [
            {**fields(e, "effect", "ci_low", "ci_high", "sets"), "sure": e.is_sure} for e in group
        ]

    return {
        "sets": found.sets,
        "layers": effects(found.layers),
        "pairs": effects(found.pairs),
        "triples": effects(found.triples),
        "patterns": [fields(p, "frequency", "quality", "mean", "synergy") for p in found.patterns],
    }
