"""`optlayers export-best`: the checkpoints of the best layer sets."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from optlayers.cli import options as opt
from optlayers.cli.app import app, say
from optlayers.config.study import load_study
from optlayers.errors import InputError
from optlayers.storage.redact import mask_password


@app.command("export-best")
def export_best(
    out: Annotated[Path, typer.Option(metavar="DIR", help="Folder for the checkpoints.")],
    top: Annotated[int, typer.Option(callback=opt.number(1), help="How many of the best.")] = 5,
    study: opt.Study = "demo",
    storage: opt.Storage = opt.DEFAULT_URL,
    link: Annotated[
        bool, typer.Option("--link", help="Write layers that are equal once, and hard-link them.")
    ] = False,
    dtype: opt.Convert = None,
    push: opt.Push = None,
    private: opt.Private = False,
    json: opt.Json = False,
) -> None:
    """Write the best layer sets of a study as checkpoints.

    Each gets its own folder. With --link the folders share files, so do not change one in place.
    With --push each goes to its own repository: REPO-01-layers-3-7 and so on.
    """
    from optlayers.checkpoints.parents import open_parents
    from optlayers.checkpoints.target import can_link, check_target
    from optlayers.cli.exporter import Exporter
    from optlayers.cli.tables import print_json

    definition = load_study(study)
    exporter = Exporter(definition, storage, dtype, push, private)
    rows = exporter.rows[:top]
    if not rows:
        raise InputError(
            f"study {definition.name!r} has no evaluated layer set in {mask_password(storage)}; "
            "run `search` with the same --study and --storage first"
        )
    if len(rows) < top:
        say(f"only {len(rows)} layer sets have been evaluated")
    targets = []
    for row in rows:
        # A repository may have no at sign in its name.
        named = "-".join(map(str, row.layers)).replace("@", "_") or "none"
        targets.append(out / f"{row.rank:02d}-layers-{named}")
        check_target(targets[-1])
    parents = open_parents(definition)
    linked = link and can_link(out)
    if link and not linked:
        say(f"--link: the disk of {out} has no hard links; equal layers are written again")
    sets = [row.record.layers for row in rows]
    writer = exporter.writer(parents, linked)
    writer.check_space(sets, targets)
    for layers, target in zip(sets, targets, strict=True):
        exporter.write(writer, layers, target, suffix=f"-{target.name}")
        if not json:
            print(target)
    exporter.keep_reports(targets)
    if linked:
        say(f"{writer.linked_bytes / 1e6:,.1f} MB of shared layers were linked, not written again")
    if json:
        print_json([{**r.to_dict(), "out": str(t)} for r, t in zip(rows, targets, strict=True)])
