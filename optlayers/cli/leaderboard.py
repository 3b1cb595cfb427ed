"""`optlayers leaderboard`: the evaluated layer sets, best first."""

from __future__ import annotations

from typing import Annotated

import typer

from optlayers.cli.app import JsonOption, StorageOption, StudyOption, app, at_least, say
from optlayers.storage.connect import DEFAULT_URL


@app.command()
def leaderboard(
    study: StudyOption = "demo",
    storage: StorageOption = DEFAULT_URL,
    top: Annotated[
        int | None, typer.Option("--top", help="Rows (default: 20; all with --json).")
    ] = None,
    front: Annotated[
        bool, typer.Option("--front", help="Only sets of which none is better at no more cost.")
    ] = False,
    json: JsonOption = False,
) -> None:
    """List the evaluated layer sets of a study, best first."""
    from optlayers.cli.stored import study_of
    from optlayers.cli.tables import NOTHING_YET, console, print_json, rows_table
    from optlayers.results.view import StudyView
    from optlayers.storage.connect import open_study, storage_errors

    if top is not None:
        at_least("--top", top, 1)
    definition = study_of(study, storage)
    opened = open_study(storage, definition, create=False)
    with storage_errors(storage):
        view = StudyView.of(definition, opened)
    rows = view.front if front else view.leaderboard
    most = top or (len(rows) if json else 20)
    # One more, for the difference of the last to the next.
    shown = view.compare(rows[: most + 1])[:most]
    if json:
        print_json([row.to_dict() for row in shown])
    elif not rows:
        say(NOTHING_YET)
    else:
        out = console()
        out.print(
            rows_table(shown, f"{definition.name}: {len(rows)} layer sets", out.width, view.cost)
        )
        out.print(view.selection_note(any(row.held_out for row in shown)), markup=False)
