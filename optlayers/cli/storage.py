"""`optlayers storage serve`: Optuna's gRPC proxy in front of a database, for many workers."""

from __future__ import annotations

import ipaddress
import signal
from concurrent.futures import ThreadPoolExecutor
from typing import Annotated, Any

import typer

from optlayers.cli.app import MOST_PORT, MOST_THREADS, StorageOption, app, at_least, say
from optlayers.storage import DEFAULT_GRPC_PORT, DEFAULT_URL

STOP_SECONDS = 5.0

storage_app = typer.Typer(help="The storage of studies.", no_args_is_help=True)
app.add_typer(storage_app, name="storage")


@storage_app.callback()
def _storage() -> None:
    """The storage of studies."""


@storage_app.command()
def serve(
    storage: StorageOption = DEFAULT_URL,
    host: Annotated[str, typer.Option("--host", help="The address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option("--port", help="The port to listen on.")] = DEFAULT_GRPC_PORT,
    threads: Annotated[int, typer.Option("--threads", help="Calls answered at once.")] = 32,
) -> None:
    """Offer a database to many workers, which use --storage grpc://HOST:PORT.

    The proxy keeps a few connections to the database for all of them. It asks for no password and
    does not encrypt: let it listen where only the workers are.
    """
    from optuna.storages._grpc.server import make_server

    from optlayers.claims import same_claim, same_work
    from optlayers.errors import RunError
    from optlayers.interrupts import ending_signals
    from optlayers.masking import mask_password
    from optlayers.proxy import handlers
    from optlayers.storage import open_storage

    at_least("--threads", threads, 1, MOST_THREADS)
    at_least("--port", port, 1, MOST_PORT)
    if not is_loopback(host):
        say(
            f"warning: whoever reaches {host} port {port} can read and change every study; the "
            "proxy asks for no password and does not encrypt"
        )
    opened = open_storage(storage, say=say)
    try:
        server: Any = make_server(opened, host, port, ThreadPoolExecutor(threads))
        server.add_generic_rpc_handlers((handlers(opened, same_work, same_claim),))
    except RuntimeError as error:
        raise RunError(f"{host} port {port}: {error}; choose another --host or --port") from None

    def stop(_number: int, _frame: Any) -> None:
        raise KeyboardInterrupt

    try:
        for name in ending_signals():
            signal.signal(name, stop)
        server.start()
        say(f"serving {mask_password(storage)} at grpc://{host}:{port}; Ctrl-C ends it")
        server.wait_for_termination()
    except KeyboardInterrupt:
        server.stop(STOP_SECONDS).wait(STOP_SECONDS)
        say("the proxy has ended; workers wait for it to come back")


def is_loopback(host: str) -> bool:
    """Whether an address reaches this machine alone."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False
