"""`optlayers dashboard`: optuna-dashboard on the studies of a database."""

from __future__ import annotations

import ipaddress
import threading
from typing import Annotated, Any

import typer

from optlayers.cli.app import MOST_PORT, StorageOption, app, at_least, say
from optlayers.storage.connect import DEFAULT_URL

RENEW_SECONDS = 30.0


@app.command()
def dashboard(
    storage: StorageOption = DEFAULT_URL,
    host: Annotated[str, typer.Option("--host", help="The address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option("--port", help="The port to listen on.")] = 8080,
) -> None:
    """Show the studies of a database in a browser, with optuna-dashboard; Ctrl-C ends it.

    Unlike the `optuna-dashboard` command it takes the URL from OPTLAYERS_STORAGE too, so that a
    password stands in no process list; and it writes notes and figures for the studies there,
    at the start and as they go on.
    """
    from optuna.artifacts import FileSystemArtifactStore
    from optuna_dashboard import run_server

    from optlayers.errors import RunError
    from optlayers.report.dashboard import annotate_all, artifact_folder
    from optlayers.storage.connect import open_storage, storage_errors
    from optlayers.storage.redact import mask_password

    at_least("--port", port, 1, MOST_PORT)
    if not is_loopback(host):
        say(
            f"warning: whoever reaches {host} port {port} can see, change and delete every study; "
            "the dashboard asks for no password"
        )
    opened = open_storage(storage, say=say)
    folder = artifact_folder(storage)
    folder.mkdir(parents=True, exist_ok=True)
    with storage_errors(storage):
        annotate_all(opened, mask_password(storage))
    threading.Thread(target=_renew, args=(opened, mask_password(storage)), daemon=True).start()
    say(f"showing {mask_password(storage)} at http://{host}:{port}; Ctrl-C ends it")
    try:
        store = FileSystemArtifactStore(base_path=str(folder))
        run_server(opened, host=host, port=port, artifact_store=store)
    except OSError as error:
        raise RunError(f"{host} port {port}: {error}; choose another --host or --port") from None


def write_notes(opened: Any, definition: Any, storage: str) -> None:
    """Notes and figures of a study at the end of its search; their failure is only told."""
    from optlayers.report.dashboard import annotate
    from optlayers.storage.redact import mask_password

    try:
        annotate(opened, definition, mask_password(storage))
    except Exception as error:
        # The search itself has ended well.
        say(f"notes for the dashboard were not written: {str(error).splitlines()[0]}")


def _renew(opened: Any, shown_url: str) -> None:
    """Keep notes and figures up with the studies."""
    from optlayers.report.dashboard import annotate_all

    wait = threading.Event()
    while not wait.wait(RENEW_SECONDS):
        try:
            annotate_all(opened, shown_url)
        except Exception as error:
            # What is shown stays as it was; the dashboard itself goes on.
            say(f"notes and figures were not renewed: {str(error).splitlines()[0]}")


def is_loopback(host: str) -> bool:
    """Whether an address reaches this machine alone."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False
