"""`optlayers status`: how far a study has come."""

from __future__ import annotations

import time
from typing import Annotated

import typer

from optlayers.cli import options as opt
from optlayers.cli.app import app
from optlayers.errors import InputError

POLL_SECONDS = 0.5


@app.command()
def status(
    study: opt.Study = "demo",
    storage: opt.Storage = opt.DEFAULT_URL,
    watch: Annotated[
        bool, typer.Option("--watch", help="Show it live until it is done, or Ctrl-C.")
    ] = False,
    json: opt.Json = False,
) -> None:
    """Show the phase, the trials and the best set of a study."""
    from rich.console import Console

    from optlayers.cli.live import LiveView
    from optlayers.cli.tables import print_json, status_lines

    if watch and json:
        raise InputError("--watch and --json: a live display is not JSON; give one of them")
    if watch:
        with opt.stored_study(study, storage) as found, LiveView(Console(highlight=False)) as live:
            while live.follow(*found) != "done":
                time.sleep(POLL_SECONDS)
        return
    view = opt.read_study(study, storage)
    if json:
        print_json(view.status())
    else:
        print("\n".join(status_lines(view)))
