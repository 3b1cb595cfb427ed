"""`optlayers leaderboard`: the evaluated layer sets, best first."""

from __future__ import annotations

from typing import Annotated

import typer

from optlayers.cli import options as opt
from optlayers.cli.app import app, say


@app.command()
def leaderboard(
    study: opt.Study = "demo",
    storage: opt.Storage = opt.DEFAULT_URL,
    top: Annotated[
        int | None,
        typer.Option(callback=opt.number(1), help="Rows (default: 20, or all with --json)."),
    ] = None,
    front: Annotated[
        bool,
        typer.Option("--front", help="Only sets that no other beats at the same or less cost."),
    ] = False,
    json: opt.Json = False,
) -> None:
    """List the evaluated layer sets of a study, best first."""
    from optlayers.cli.tables import NOTHING_YET, console, print_json, print_rows

    view = opt.read_study(study, storage)
    rows = view.front if front else view.leaderboard
    most = top or (len(rows) if json else 20)
    # One row more: the last is compared with the next.
    shown = view.compare(rows[: most + 1])[:most]
    if json:
        print_json([row.to_dict() for row in shown])
    elif not rows:
        say(NOTHING_YET)
    else:
        out = console()
        print_rows(out, shown, f"{view.definition.name}: {len(rows)} layer sets", view.cost)
        out.print(view.selection_note(any(row.held_out for row in shown)), markup=False)
