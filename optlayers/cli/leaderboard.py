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
    from optlayers.results.comparisons import evidence, looked
    from optlayers.results.leaderboard import front as pareto
    from optlayers.results.leaderboard import leaderboard as read_rows
    from optlayers.storage.connect import open_study, storage_errors
    from optlayers.trials.cost import cost_of
    from optlayers.trials.records import read_records

    if top is not None:
        at_least("--top", top, 1)
    definition = study_of(study, storage)
    opened = open_study(storage, definition, create=False)
    with storage_errors(storage):
        records = read_records(opened.get_trials(deepcopy=False))
        cost = cost_of(definition, opened.user_attrs)
        rows = read_rows(definition, records, cost)
        if front:
            rows = pareto(rows)
        shown = rows[:top] if json or top else rows[:20]
        # One more, for the difference of the last to the next.
        proof = evidence(opened, rows[: len(shown) + 1])[: len(shown)]
    if json:
        print_json([{**r.to_dict(), **e.to_dict()} for r, e in zip(shown, proof, strict=True)])
    elif not rows:
        say(NOTHING_YET)
    else:
        out = console()
        out.print(
            rows_table(shown, f"{definition.name}: {len(rows)} layer sets", proof, out.width, cost)
        )
        out.print(str(looked(records, any(e.held_out for e in proof))), markup=False)
