"""`optlayers export`: the checkpoint of one layer set."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from optlayers.cli import options as opt
from optlayers.cli.app import app, say
from optlayers.config.study import load_study
from optlayers.storage.redact import mask_password


@app.command()
def export(
    layers: opt.Layers,
    out: Annotated[Path, typer.Option(metavar="DIR", help="A new folder to write.")],
    study: opt.Study = "demo",
    storage: opt.Storage = opt.DEFAULT_URL,
    dtype: opt.Convert = None,
    push: opt.Push = None,
    private: opt.Private = False,
    json: opt.Json = False,
) -> None:
    """Write one layer set as a checkpoint for transformers.

    It records the score of the set, if the database has one.
    """
    from optlayers.checkpoints.parents import open_for
    from optlayers.cli.exporter import Exporter
    from optlayers.cli.tables import print_json

    definition = load_study(study)
    exporter = Exporter(definition, storage, dtype, push, private)
    parents, chosen = open_for(definition, layers)
    if exporter.score(chosen) is None:
        say(f"no score is recorded: {mask_password(storage)} has no evaluation of these layers")
    address = exporter.write(exporter.writer(parents), chosen, out)
    exporter.keep_reports([out])
    if json:
        labels = definition.graft.space().labels(chosen)
        print_json({"layers": labels, "out": str(out), "pushed": address})
    else:
        print(out)
