"""`optlayers studies`: the shipped definitions, and the check of a study file."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from optlayers.cli.app import JsonOption, StorageOption, app
from optlayers.storage.connect import DEFAULT_URL


@app.command()
def studies(
    check: Annotated[
        Path | None, typer.Option("--check", metavar="FILE", help="Validate a study file.")
    ] = None,
    study: Annotated[
        str | None, typer.Option("--study", metavar="NAME|FILE", help="Only this one.")
    ] = None,
    storage: StorageOption = DEFAULT_URL,
    json: JsonOption = False,
) -> None:
    """List the study definitions that ship with optlayers, or validate a study file.

    `--storage` is taken as every command takes it, and not used.
    """
    from optlayers.cli.tables import print_json
    from optlayers.config.study import load_study, shipped_studies
    from optlayers.errors import InputError

    if check is not None and study is not None:
        raise InputError("--check and --study name a study each; give one")
    if check is not None:
        definition = load_study(str(check) if check.suffix else str(check.absolute()))
        if json:
            print_json(definition.to_dict())
        else:
            print(f"{check}: valid; study {definition.name!r}")
        return
    names = [str(path) for path in shipped_studies()] if study is None else [study]
    found = [load_study(name) for name in names]
    if json:
        print_json([definition.to_dict() for definition in found])
        return
    for definition in found:
        budget = f"{definition.layers.min} to {definition.layers.max} layers"
        tasks = ", ".join(task.name for task in definition.tasks)
        donors = " and ".join(spec.model for spec in definition.donor_specs)
        print(f"{definition.name}: {donors} into {definition.base.model}, {budget}, {tasks}")
