"""`optlayers dashboard`: optuna-dashboard on the studies of a database."""

from __future__ import annotations

import contextlib
import ipaddress
import threading
from typing import Annotated, Any

import typer

from optlayers.cli import options as opt
from optlayers.cli.app import app, not_fatal, say
from optlayers.errors import RunError
from optlayers.storage.connect import open_storage, storage_errors
from optlayers.storage.redact import mask_password

UPDATE_SECONDS = 30.0


@app.command()
def dashboard(
    storage: opt.Storage = opt.DEFAULT_URL,
    host: Annotated[str, typer.Option(help="The address to listen on.")] = "127.0.0.1",
    port: Annotated[
        int, typer.Option(callback=opt.number(1, 65_535), help="The port to listen on.")
    ] = 8080,
) -> None:
    """Show a database in a browser, with optuna-dashboard.

    Adds a note and figures to each study and keeps them up to date; Ctrl-C ends it. The URL is
    also read from OPTLAYERS_STORAGE, so that no process list shows its password.
    """
    from optuna.artifacts import FileSystemArtifactStore
    from optuna_dashboard import run_server

    from optlayers.report.dashboard import annotate_all, artifact_folder

    if not _is_loopback(host):
        say(
            f"warning: whoever reaches {host} port {port} can see, change and delete every study; "
            "the dashboard asks for no password"
        )
    shown = mask_password(storage)
    opened = open_storage(storage, say=say)
    folder = artifact_folder(storage)
    folder.mkdir(parents=True, exist_ok=True)
    with storage_errors(storage):
        annotate_all(opened, shown)
    threading.Thread(target=_keep_up_to_date, args=(opened, shown), daemon=True).start()
    say(f"showing {shown} at http://{host}:{port}; Ctrl-C ends it")
    try:
        store = FileSystemArtifactStore(base_path=str(folder))
        run_server(opened, host=host, port=port, artifact_store=store)
    except OSError as error:
        raise RunError(f"{host} port {port}: {error}; choose another --host or --port") from None


def write_note(opened: Any, definition: Any, storage: str) -> None:
    """Write note and figures of a study whose search has ended; a failure is only printed."""
    from optlayers.report.dashboard import annotate

    with not_fatal("note and figures for the dashboard were not written"):
        annotate(opened, definition, mask_password(storage))


def _keep_up_to_date(opened: Any, shown_url: str) -> None:
    from optlayers.report.dashboard import annotate_all

    wait = threading.Event()
    while not wait.wait(UPDATE_SECONDS):
        with not_fatal("note and figures were not updated"):
            annotate_all(opened, shown_url)


def _is_loopback(host: str) -> bool:
    with contextlib.suppress(ValueError):
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    return host == "localhost"
