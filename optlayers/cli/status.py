"""`optlayers status`: where a study stands."""

from __future__ import annotations

import time
from typing import Annotated, Any

import typer

from optlayers.cli.app import JsonOption, StorageOption, StudyOption, app
from optlayers.storage.connect import DEFAULT_URL

POLL_SECONDS = 0.5


@app.command()
def status(
    study: StudyOption = "demo",
    storage: StorageOption = DEFAULT_URL,
    watch: Annotated[
        bool, typer.Option("--watch", help="Show it as it goes, until it is done or Ctrl-C.")
    ] = False,
    json: JsonOption = False,
) -> None:
    """Show phase, trials and best layer set of a study."""
    from optlayers.cli.stored import study_of
    from optlayers.cli.tables import print_json, status_lines
    from optlayers.errors import InputError
    from optlayers.results.view import StudyView
    from optlayers.storage.connect import open_study, storage_errors

    if watch and json:
        raise InputError("--watch and --json: a view that renews itself is no JSON; choose one")
    definition = study_of(study, storage)
    opened = open_study(storage, definition, create=False)
    with storage_errors(storage):
        if watch:
            _watch(definition, opened)
            return
        view = StudyView.of(definition, opened)
    if json:
        print_json(view.status())
    else:
        print("\n".join(status_lines(view)))


def _watch(definition: Any, opened: Any) -> None:
    """The live view of a study that others run."""
    from rich.console import Console

    from optlayers.cli.live import LiveView

    with LiveView(Console(highlight=False)) as view:
        while view.follow(definition, opened) != "done":
            time.sleep(POLL_SECONDS)
