"""Options that several commands share, the checks of their values, and the study that they name."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from optlayers.cli.app import STORAGE_ENV
from optlayers.config.study import StudyDefinition, load_study
from optlayers.errors import InputError, MissingStudyError, StudyFileError
from optlayers.storage.connect import DEFINITION, open_storage, open_study, storage_errors
from optlayers.storage.urls import DEFAULT_URL as DEFAULT_URL

if TYPE_CHECKING:
    import optuna

    from optlayers.results.view import StudyView

DTYPES = ("float32", "bfloat16", "float16")


def number(least: float, most: float = 1e9) -> Callable[..., float | None]:
    """A callback that raises `InputError` for an option outside of `least` to `most`, or NaN."""

    def check(option: typer.CallbackParam, value: float | None) -> float | None:
        if value is None or least <= value <= most:
            return value
        limit = f"at most {most:,.0f}" if value > most else f"at least {least:g}"
        raise InputError(f"{option.opts[0]} is {value}; give {limit}")

    return check


def one_of(*allowed: str) -> Callable[..., str | None]:
    """A callback that raises `InputError` for an option that is not one of these."""

    def check(option: typer.CallbackParam, value: str | None) -> str | None:
        if value is None or value in allowed:
            return value
        raise InputError(f"{option.opts[0]} is {value!r}; choose one of {', '.join(allowed)}")

    return check


def count(text: str | None) -> int:
    """A number of tokens such as 20M or 32k; 0 for None. Raises `ValueError`, `OverflowError`."""
    if text is None:
        return 0
    scale = {"k": 1_000, "m": 1_000_000, "b": 1_000_000_000}.get(text[-1:].lower(), 1)
    return round(float(text[:-1] if scale > 1 else text) * scale)


def tokens(least: int = 0) -> Callable[..., str | None]:
    """A callback that raises `InputError` for an option that is not a number of tokens."""

    def check(option: typer.CallbackParam, value: str | None) -> str | None:
        if value is None:
            return None
        try:
            fine = count(value) >= least
        except (ValueError, OverflowError):
            fine = False
        if not fine:
            raise InputError(f"{option.opts[0]} is {value!r}; give tokens, such as 500k or 20M")
        return value

    return check


def _given(context: typer.Context, option: typer.CallbackParam, url: str) -> str:
    """A database URL; raises `InputError` where it, or the environment variable, is empty."""
    source = context.get_parameter_source(str(option.name))
    unset = source is not None and source.name == "DEFAULT" and STORAGE_ENV in os.environ
    if unset or not url.strip():
        # A secret that is missing must not become a search of its own in a local file.
        raise InputError(
            f"{STORAGE_ENV if unset else '--storage'} is empty; give a database URL, such as "
            f"{DEFAULT_URL}"
        )
    return url.strip()  # a secret that is mounted as a file ends with a newline


Study = Annotated[str, typer.Option(metavar="NAME|FILE", help="A shipped study, or a study file.")]
Storage = Annotated[
    str,
    typer.Option(
        metavar="URL",
        envvar=STORAGE_ENV,
        help="Database URL of the study.",
        callback=_given,
    ),
]
Json = Annotated[bool, typer.Option("--json", help="Print JSON; log to standard error.")]
Device = Annotated[
    str | None, typer.Option(help="cpu, cuda or cuda:0 (default: a GPU if present).")
]
Dtype = Annotated[
    str | None,
    typer.Option(
        callback=one_of(*DTYPES),
        help="float32, bfloat16 or float16 (default: bfloat16 on a GPU, float32 on a CPU).",
    ),
]
MaxMinutes = Annotated[
    float | None, typer.Option(callback=number(0), help="Stop after this many minutes.")
]
Sampler = Annotated[
    str | None,
    typer.Option(
        help="pattern-ga, tpe, nsgaii, random, greedy or beam (default: from the study file)."
    ),
]
Pruner = Annotated[
    str | None, typer.Option(help="racing, halving or none (default: from the study file).")
]
# For tests and benchmarks: answers from a recording, see optlayers/testing/replay.py.
Replay = Annotated[str | None, typer.Option("--replay", hidden=True)]
Layers = Annotated[
    str,
    typer.Option(
        metavar="LAYERS", help='Layers from the donor, such as 3,7; "" is the base, all the donor.'
    ),
]
Limit = Annotated[
    int | None, typer.Option(callback=number(1), help="Only the first N documents of each task.")
]
Convert = Annotated[
    str | None,
    typer.Option(help="Convert to float32, bfloat16 or float16 (default: keep each dtype)."),
]
Push = Annotated[
    str | None, typer.Option(metavar="REPO", help="Upload to the Hugging Face hub, as OWNER/NAME.")
]
Private = Annotated[
    bool, typer.Option("--private", help="With --push: make a new repository private.")
]


def stored_definition(name_or_file: str, storage: str) -> StudyDefinition:
    """As `load_study`, but a name that is neither a file nor shipped is looked up in the database.

    Raises `InputError` if it is not there either, `StorageError` for a database that cannot be
    read.
    """
    import optuna
    from pydantic import ValidationError

    try:
        return load_study(name_or_file)
    except StudyFileError:
        raise
    except InputError as error:
        if Path(name_or_file).suffix in (".yaml", ".yml") or Path(name_or_file).exists():
            raise
        unknown = error
    try:
        opened = open_storage(storage, create=False)
        with storage_errors(storage):
            study = optuna.load_study(study_name=name_or_file, storage=opened)
            definition = StudyDefinition.model_validate(study.user_attrs.get(DEFINITION))
            # The name may have been changed in optuna-dashboard.
            return definition.model_copy(update={"name": name_or_file})
    except (MissingStudyError, KeyError, ValidationError):
        raise unknown from None


@contextlib.contextmanager
def stored_study(name_or_file: str, storage: str) -> Iterator[tuple[StudyDefinition, optuna.Study]]:
    """A study opened for reading: its definition, and the study in the database.

    Raises `InputError` as `stored_definition`, `StorageError` where the study cannot be opened, and
    `StorageUnavailableError` for what goes wrong with the database afterwards.
    """
    definition = stored_definition(name_or_file, storage)
    study = open_study(storage, definition, create=False)
    with storage_errors(storage):
        yield definition, study


def read_study(name_or_file: str, storage: str) -> StudyView:
    """A study as its database holds it now; raises as `stored_study`."""
    from optlayers.results.view import StudyView

    with stored_study(name_or_file, storage) as (definition, study):
        return StudyView.of(definition, study)
