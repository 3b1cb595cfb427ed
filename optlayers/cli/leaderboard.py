"""`optlayers leaderboard`: the evaluated layer sets, best first."""

from __future__ import annotations

from typing import Annotated

import typer

from optlayers.cli.app import JsonOption, StorageOption, StudyOption, app, at_least
from optlayers.storage import DEFAULT_URL


@app.command()
def leaderboard(
    study: StudyOption = "demo",
    storage: StorageOption = DEFAULT_URL,
    top: Annotated[
        int | None, typer.Option("--top", help="Rows (default: 20; all with --json).")
    ] = None,
    json: JsonOption = False,
) -> None:
    """List the evaluated layer sets of a study, best first."""
    from optlayers.cli.tables import console, print_json, rows_table
    from optlayers.leaderboard import leaderboard as read_rows
    from optlayers.search import read_records
    from optlayers.storage import open_study, storage_errors
    from optlayers.study import load_study

    if top is not None:
        at_least("--top", top, 1)
    definition = load_study(study)
    opened = open_study(storage, definition, create=False)
    with storage_errors(storage):
        rows = read_rows(definition, read_records(opened.get_trials(deepcopy=False)))
    if json:
        print_json([row.to_dict() for row in rows[:top]])
    else:
        shown = rows[: top or 20]
        console().print(rows_table(shown, f"{definition.name}: {len(rows)} layer sets"))
