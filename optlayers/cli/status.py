"""`optlayers status`: where a study stands."""

from __future__ import annotations

from optlayers.cli.app import JsonOption, StorageOption, StudyOption, app
from optlayers.storage import DEFAULT_URL


@app.command()
def status(
    study: StudyOption = "demo", storage: StorageOption = DEFAULT_URL, json: JsonOption = False
) -> None:
    """Show phase, trials and best layer set of a study."""
    from optlayers.cli.tables import print_json, status_lines
    from optlayers.leaderboard import status as read_status
    from optlayers.storage import open_study, storage_errors
    from optlayers.study import load_study

    definition = load_study(study)
    opened = open_study(storage, definition, create=False)
    with storage_errors(storage):
        state = read_status(definition, opened)
    if json:
        print_json(state.to_dict())
    else:
        print("\n".join(status_lines(state)))
