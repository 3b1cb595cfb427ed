"""`optlayers export-best`: the checkpoints of the best layer sets."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from optlayers.cli.app import JsonOption, StorageOption, StudyOption, app, at_least, say
from optlayers.cli.export import ConvertOption, PrivateOption, PushOption
from optlayers.storage import DEFAULT_URL


@app.command("export-best")
def export_best(
    out: Annotated[Path, typer.Option("--out", metavar="DIR", help="Where the folders go.")],
    top: Annotated[int, typer.Option("--top", help="How many of the best.")] = 5,
    study: StudyOption = "demo",
    storage: StorageOption = DEFAULT_URL,
    link: Annotated[
        bool, typer.Option("--link", help="Write equal layers once, and link to them.")
    ] = False,
    dtype: ConvertOption = None,
    push: PushOption = None,
    private: PrivateOption = False,
    json: JsonOption = False,
) -> None:
    """Write the best layer sets of a study as checkpoints, one folder each.

    With --link, a file of one folder may be a file of another: change none in place. With --push,
    each goes to a repository of its own, REPO-01-layers-3-7 and so on.
    """
    from optlayers.checkpoints.writer import Shelf
    from optlayers.cli.export import checked, keep, open_both, upload, write
    from optlayers.cli.recorded import recorded
    from optlayers.cli.tables import print_json
    from optlayers.errors import InputError
    from optlayers.layerset import LayerSet
    from optlayers.masking import mask_password
    from optlayers.study import load_study

    at_least("--top", top, 1)
    definition = load_study(study)
    repository = checked(push)
    known = recorded(definition, storage)
    rows = known.rows[:top]
    if not rows:
        raise InputError(
            f"study {definition.name!r} has no evaluated layer set in {mask_password(storage)}; "
            "run `search` with the same --study and --storage first"
        )
    if len(rows) < top:
        say(f"only {len(rows)} layer sets were evaluated")
    targets = [
        out / f"{row.rank:02d}-layers-{'-'.join(map(str, row.layers)) or 'none'}" for row in rows
    ]
    for target in targets:
        if target.exists():
            raise InputError(f"--out {target}: it exists already; choose another, or remove it")
    pair = open_both(definition)
    shelf = Shelf() if link else None
    for row, target in zip(rows, targets, strict=True):
        layers = LayerSet(tuple(row.layers))
        write(definition, pair, layers, known.score(layers.indices), target, dtype, shelf)
        upload(target, repository and f"{repository}-{target.name}", private)
        if not json:
            print(target)
    keep(definition, storage, targets)
    if shelf is not None:
        say(f"{shelf.linked / 1e9:.2f} GB were linked instead of written")
    if json:
        print_json([{**r.to_dict(), "out": str(t)} for r, t in zip(rows, targets, strict=True)])
