"""The application: its options, and how errors leave it.

A mistake of the user ends with exit code 2, a failure at run time with 1, each in one line on
standard error; a traceback comes only with `--debug`.
"""

from __future__ import annotations

import errno
import importlib
import os
import sys
import traceback
from collections.abc import Callable
from typing import Annotated, Any

import typer

from optlayers import __version__
from optlayers.cli.leaving import EXIT_CODE
from optlayers.errors import InputError, OptlayersError
from optlayers.storage.redact import mask_password, remember_password

app = typer.Typer(
    name="optlayers",
    help="Find which few layers of a donor model to put into a base model.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)

STORAGE_ENV = "OPTLAYERS_STORAGE"

StudyOption = Annotated[
    str, typer.Option("--study", metavar="NAME|FILE", help="A shipped study, or a YAML file.")
]
StorageOption = Annotated[
    str,
    typer.Option(
        "--storage",
        metavar="URL",
        envvar=STORAGE_ENV,
        help="Database URL of the study.",
        show_envvar=True,
        # A secret that was made from a file ends with its line.
        callback=lambda url: url.strip(),
    ),
]
JsonOption = Annotated[
    bool, typer.Option("--json", help="Data on standard output, everything else on standard error.")
]
DeviceOption = Annotated[
    str | None, typer.Option("--device", help="cpu, cuda or cuda:0 (default: a GPU if there is).")
]
DtypeOption = Annotated[
    str | None,
    typer.Option("--dtype", help="float32, bfloat16 or float16 (default: by device)."),
]

MaxMinutesOption = Annotated[
    float | None,
    typer.Option("--max-minutes", help="Leave in time, after at most so many minutes."),
]
SamplerOption = Annotated[
    str | None,
    typer.Option(
        "--sampler",
        help="pattern-ga, tpe, nsgaii, random, greedy or beam (default: as the study file says).",
    ),
]
PrunerOption = Annotated[
    str | None,
    typer.Option("--pruner", help="racing, halving or none (default: as the study file says)."),
]
# For tests and benchmarks; see optlayers/testing/replay.py.
ReplayOption = Annotated[str | None, typer.Option("--replay", hidden=True)]

# No option that counts something goes further.
MOST = 1_000_000_000
MOST_WORKERS = 1_000
MOST_THREADS = 1_000
MOST_PORT = 65_535

# Newer versions of typer carry a click of their own: its errors are found through typer.
_ClickException: Any = next(
    kind for kind in typer.BadParameter.__mro__ if kind.__name__ == "ClickException"
)

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
    "verify",
    "doctor",
    "studies",
)


@app.callback()
def _options(
    debug: Annotated[
        bool, typer.Option("--debug", help="Show a traceback when something fails.")
    ] = False,
    version: Annotated[bool, typer.Option("--version", help="Print the version.")] = False,
) -> None:
    if debug:
        os.environ["OPTLAYERS_DEBUG"] = "1"


def debugging() -> bool:
    """Whether tracebacks are wanted."""
    return bool(os.environ.get("OPTLAYERS_DEBUG"))


AGAIN = "optlayers: interrupted; run the same command again to go on"


def say(text: str) -> None:
    """One line on standard error, without passwords; nothing where its terminal is gone."""
    try:
        print(mask_password(text), file=sys.stderr, flush=True)
    except OSError as error:
        if error.errno != errno.EIO:
            raise


def main() -> None:
    """Run the command line and exit."""
    arguments = sys.argv[1:]
    if arguments == ["--version"]:
        print(__version__)
        sys.exit(0)
    for text in [os.environ.get(STORAGE_ENV, ""), *arguments]:
        remember_password(text)
    # The option may stand anywhere: people add it to the line that failed.
    if "--debug" in arguments:
        arguments = ["--debug", *[a for a in arguments if a != "--debug"]]
    sys.exit(_guard(lambda: _run(arguments)))


def _run(arguments: list[str]) -> Any:
    for name in COMMANDS:
        importlib.import_module(f"optlayers.cli.{name}")
    return app(arguments, standalone_mode=False)


def _show_traceback() -> None:
    """The traceback of the error at hand, without passwords."""
    say(traceback.format_exc().rstrip())


def _guard(run: Callable[[], Any]) -> int:
    """Run and turn every way to fail into an exit code and a line."""
    try:
        code = run()
        if code == EXIT_CODE:
            # What the command line library makes of Ctrl-C.
            say(AGAIN)
        return code if isinstance(code, int) else 0
    except typer.Exit as error:
        return int(error.exit_code)
    except typer.Abort:
        # What it makes of Ctrl-C where it asks something.
        say(AGAIN)
        return EXIT_CODE
    except _ClickException as error:
        if type(error).__name__ == "NoArgsIsHelpError":
            print(error.format_message())
            return 0
        message = error.format_message().rstrip(".")
        say(f"optlayers: {message}{_found(error)} (see `{called()} --help`)")
        return 2
    except KeyboardInterrupt:
        say(AGAIN)
        return EXIT_CODE
    except BrokenPipeError:
        # The reader (head, less) has left; there is nobody to tell.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except OptlayersError as error:
        if debugging():
            _show_traceback()
        for line in str(error).splitlines():
            say(f"optlayers: {line}")
        return error.exit_code
    except Exception as error:
        if debugging():
            _show_traceback()
        text = str(error).strip().splitlines()
        what = f"{type(error).__name__}: {text[0]}" if text else type(error).__name__
        say(f"optlayers: {what} (a fault of optlayers; run again with --debug to see where)")
        return 1


def _found(error: Any) -> str:
    """What stood after the option that a usage error is about, where it can be told."""
    options = getattr(getattr(error, "param", None), "opts", ())
    values = [v for o, v in zip(sys.argv, sys.argv[1:], strict=False) if o in options]
    return f"; found {values[-1]!r}" if values else ""


def called() -> str:
    """How the user calls this command line, for commands that are to be copied."""
    return os.environ.get("OPTLAYERS_CALLED_AS") or "optlayers"


def at_least(name: str, value: float, minimum: float, most: float = MOST) -> None:
    """Raise `InputError` where an option is below its minimum, above the most, or no number."""
    if not value >= minimum:  # NaN too
        raise InputError(f"{name} is {value:g}; it is {minimum:g} or more")
    if value > most:
        raise InputError(f"{name} is {value:g}; it is {most:,} or less")
