"""The typer application: entry point, error messages and exit codes.

Bad input ends with exit code 2, a failure at run time with 1, each as one line on standard error.
A traceback is printed only with `--debug`.
"""

from __future__ import annotations

import contextlib
import errno
import importlib
import io
import os
import sys
import traceback
from collections.abc import Callable, Iterator
from typing import Annotated, Any

import typer

from optlayers import __version__
from optlayers.cli.exit import INTERRUPTED
from optlayers.config.machine import limit_threads
from optlayers.errors import OptlayersError, reason
from optlayers.storage.redact import mask_password, remember_password

STORAGE_ENV = "OPTLAYERS_STORAGE"
FULL = (errno.ENOSPC, errno.EDQUOT)
# One module each, in the order of `--help`.
COMMANDS = (
    "init",
    "search",
    "worker",
    "dashboard",
    "status",
    "leaderboard",
    "report",
    "patterns",
    "eval",
    "export",
    "export_best",
    "fetch",
    "convert",
    "verify",
    "doctor",
    "studies",
)

app = typer.Typer(
    name="optlayers",
    help="Find which few layers of a donor model to put into a base model.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)

# Recent versions of typer bundle click, so its base exception is looked up through typer.
_ClickException: Any = next(
    kind for kind in typer.BadParameter.__mro__ if kind.__name__ == "ClickException"
)


@app.callback()
def _options(
    debug: Annotated[bool, typer.Option("--debug", help="Print a traceback on failure.")] = False,
    version: Annotated[bool, typer.Option("--version", help="Print the version.")] = False,
) -> None:
    if debug:
        os.environ["OPTLAYERS_DEBUG"] = "1"


def command_group() -> Any:
    """The click group of all commands."""
    for name in COMMANDS:
        importlib.import_module(f"optlayers.cli.{name}")
    group: Any = typer.main.get_command(app)
    # Whichever module was imported first, the order is that of COMMANDS.
    names = [name.replace("_", "-") for name in COMMANDS]
    group.commands = {name: group.commands[name] for name in names}
    return group


def main() -> None:
    """Run the command line and exit."""
    arguments = sys.argv[1:]
    if arguments == ["--version"]:
        print(__version__)
        sys.exit(0)
    limit_threads()
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")  # what the terminal cannot show
    for text in [os.environ.get(STORAGE_ENV, ""), *arguments]:
        remember_password(text)
    # `--debug` works anywhere in the line: people append it to the command that failed.
    if "--debug" in arguments:
        arguments = ["--debug", *[a for a in arguments if a != "--debug"]]
    sys.exit(_exit_code(lambda: command_group()(arguments, standalone_mode=False)))


def say(text: str) -> None:
    """Print a line on standard error, passwords masked; does nothing where it cannot be written.

    That is, where the terminal is gone or the disk is full.
    """
    try:
        print(mask_password(text), file=sys.stderr, flush=True)
    except OSError as error:
        if error.errno not in (errno.EIO, *FULL):
            raise


@contextlib.contextmanager
def not_fatal(what: str) -> Iterator[None]:
    """Print errors of what is not worth failing for, such as figures for the dashboard."""
    try:
        yield
    except Exception as error:
        say(f"{what}: {reason(error)}")


def program() -> str:
    """The name of this program, for commands that the user copies."""
    return os.environ.get("OPTLAYERS_CALLED_AS") or "optlayers"


def _exit_code(run: Callable[[], Any]) -> int:
    """Run a command; every way to fail becomes an exit code and a line on standard error."""
    try:
        try:
            code = run()
        finally:
            if sys.stdout is not None:
                sys.stdout.flush()
    except typer.Exit as error:
        return int(error.exit_code)
    except (KeyboardInterrupt, typer.Abort):
        code = INTERRUPTED
    except _ClickException as error:
        if type(error).__name__ == "NoArgsIsHelpError":
            print(error.format_message())
            return 0
        message = error.format_message().rstrip(".")
        context = getattr(error, "ctx", None)
        command = f" {context.info_name}" if context and context.parent else ""
        say(f"optlayers: {message}{_found(error)} (see `{program()}{command} --help`)")
        return 2
    except BrokenPipeError:
        _drop_output()  # the reader (head, less) has closed the pipe
        return 1
    except OptlayersError as error:
        _show_traceback()
        for line in str(error).splitlines():
            say(f"optlayers: {line}")
        return error.exit_code
    except Exception as error:
        _show_traceback()
        if isinstance(error, OSError) and error.errno in FULL:
            _drop_output()
            name = error.filename or "standard output"
            say(f"optlayers: {name}: {error.strerror}; free some space, or write elsewhere")
            return 1
        if isinstance(error, RuntimeError) and "home directory" in str(error):
            say(
                "optlayers: there is no home directory: HOME is not set, and this user has no "
                "entry in /etc/passwd; set HOME to a folder"
            )
            return 2
        say(f"optlayers: {reason(error)} (this is a bug; run again with --debug for a traceback)")
        return 1
    if code == INTERRUPTED:  # which click also returns on Ctrl-C
        say("optlayers: interrupted; run the same command again to continue")
    return code if isinstance(code, int) else 0


def _drop_output() -> None:
    """Let what standard output still holds go nowhere: it would fail again as Python ends."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _show_traceback() -> None:
    if os.environ.get("OPTLAYERS_DEBUG"):
        say(traceback.format_exc().rstrip())


def _found(error: Any) -> str:
    """The value given to the option that a usage error is about, if there is one."""
    options = getattr(getattr(error, "param", None), "opts", ())
    values = [v for o, v in zip(sys.argv, sys.argv[1:], strict=False) if o in options]
    return f"; found {values[-1]!r}" if values else ""
