"""`optlayers studies`: the shipped definitions, and the check of a study file."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from optlayers.cli.app import JsonOption, app


@app.command()
def studies(
    check: Annotated[
        Path | None, typer.Option("--check", metavar="FILE", help="Validate a study file.")
    ] = None,
    json: JsonOption = False,
) -> None:
    """List the study definitions that ship with optlayers, or validate a study file."""
    from optlayers.cli.tables import print_json
    from optlayers.study import load_study, shipped_studies

    if check is not None:
        definition = load_study(str(check) if check.suffix else str(check.absolute()))
        if json:
            print_json(definition.to_dict())
        else:
            print(f"{check}: valid; study {definition.name!r}")
        return
    found = [load_study(str(path)) for path in shipped_studies()]
    if json:
        print_json([definition.to_dict() for definition in found])
        return
    for definition in found:
        budget = f"{definition.layers.min} to {definition.layers.max} layers"
        tasks = ", ".join(task.name for task in definition.tasks)
        print(
            f"{definition.name}: {definition.donor.model} into {definition.base.model}, "
            f"{budget}, {tasks}"
        )
