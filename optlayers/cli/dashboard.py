"""`optlayers dashboard`: optuna-dashboard on the studies of a database."""

from __future__ import annotations

from typing import Annotated

import typer

from optlayers.cli.app import StorageOption, app, at_least, say
from optlayers.cli.storage import is_loopback
from optlayers.storage import DEFAULT_URL


@app.command()
def dashboard(
    storage: StorageOption = DEFAULT_URL,
    host: Annotated[str, typer.Option("--host", help="The address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option("--port", help="The port to listen on.")] = 8080,
) -> None:
    """Show the studies of a database in a browser, with optuna-dashboard; Ctrl-C ends it.

    Unlike the `optuna-dashboard` command it takes the URL from OPTLAYERS_STORAGE too, so that a
    password stands in no process list.
    """
    from optuna_dashboard import run_server

    from optlayers.errors import RunError
    from optlayers.patience import mask_password
    from optlayers.storage import open_storage

    at_least("--port", port, 1)
    if not is_loopback(host):
        say(
            f"warning: whoever reaches {host} port {port} can see, change and delete every study; "
            "the dashboard asks for no password"
        )
    opened = open_storage(storage, say=say)
    say(f"showing {mask_password(storage)} at http://{host}:{port}; Ctrl-C ends it")
    try:
        run_server(opened, host=host, port=port)
    except OSError as error:
        raise RunError(f"{host} port {port}: {error}; choose another --host or --port") from None
