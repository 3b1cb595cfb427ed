"""`optlayers export`: the checkpoint of one layer set."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from optlayers.cli import options as opt
from optlayers.cli.app import app, say


@app.command()
def export(
    layers: opt.Layers,
    out: Annotated[Path, typer.Option("--out", metavar="DIR", help="A new folder to write.")],
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
    from optlayers.checkpoints.parents import open_parents
    from optlayers.cli.exporter import Exporter
    from optlayers.cli.tables import print_json
    from optlayers.config.study import load_study
    from optlayers.storage.redact import mask_password

    definition = load_study(study)
    exporter = Exporter(definition, storage, dtype, push, private)
    # Models that are not here yet are fetched as far as these layers need them.
    needed = None if "all" in layers else definition.graft.space().parse(layers)
    parents = open_parents(definition, needed)
    space = definition.graft.space(parents.n_layers)
    chosen = space.parse(layers)
    if exporter.score(chosen) is None:
        say(f"no score is recorded: {mask_password(storage)} has no evaluation of these layers")
    address = exporter.write(parents, chosen, out)
    exporter.keep_reports([out])
    if json:
        print_json({"layers": space.labels(chosen), "out": str(out), "pushed": address})
    else:
        print(out)
