"""`optlayers studies`: the shipped study files, and the check of one."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from optlayers.cli import options as opt
from optlayers.cli.app import app
from optlayers.config.study import load_study, shipped_studies
from optlayers.errors import InputError


@app.command()
def studies(
    check: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Validate a study file.")
    ] = None,
    study: Annotated[
        str | None, typer.Option(metavar="NAME|FILE", help="List only this study.")
    ] = None,
    storage: opt.Storage = opt.DEFAULT_URL,
    json: opt.Json = False,
) -> None:
    """List the shipped studies, or validate a study file.

    --storage is accepted as by every command, and has no effect.
    """
    from optlayers.cli.tables import print_json

    if check is not None and study is not None:
        raise InputError("--check and --study each name a study; give one of them")
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
        layers = f"{definition.layers.min} to {definition.layers.max} layers"
        tasks = ", ".join(task.name for task in definition.tasks)
        print(f"{definition.name}: {layers}, on {tasks}")
        print(f"  base   {definition.base.model}")
        print(f"  donor  {', '.join(spec.model for spec in definition.donor_specs)}")
