"""`optlayers export-best`: the checkpoints of the best layer sets."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from optlayers.cli.app import JsonOption, StorageOption, StudyOption, app, at_least, say
from optlayers.cli.export import ConvertOption, PrivateOption, PushOption
from optlayers.storage.connect import DEFAULT_URL


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
    from optlayers.checkpoints.parents import open_parents
    from optlayers.checkpoints.plan import Shelf
    from optlayers.checkpoints.target import can_link, check_target
    from optlayers.checkpoints.writer import check_room
    from optlayers.cli.export import checked, keep, upload, write
    from optlayers.cli.recorded import recorded, score_of
    from optlayers.cli.tables import print_json
    from optlayers.config.study import load_study
    from optlayers.errors import InputError
    from optlayers.storage.redact import mask_password

    at_least("--top", top, 1)
    definition = load_study(study)
    repository = checked(push)
    known = recorded(definition, storage)
    rows = known.leaderboard[:top] if known else []
    if not rows:
        raise InputError(
            f"study {definition.name!r} has no evaluated layer set in {mask_password(storage)}; "
            "run `search` with the same --study and --storage first"
        )
    if len(rows) < top:
        say(f"only {len(rows)} layer sets were evaluated")
    targets = [out / f"{row.rank:02d}-layers-{_named(row.layers)}" for row in rows]
    for target in targets:
        check_target(target)
    parents = open_parents(definition)
    shelf = Shelf() if link and can_link(out) else None
    if link and shelf is None:
        say(f"--link: the disk of {out} has no links, so that equal layers are written again")
    sets = [row.record.layers for row in rows]
    check_room(parents, sets, targets, dtype=dtype, shelf=shelf, graft=definition.graft)
    for layers, target in zip(sets, targets, strict=True):
        write(definition, parents, layers, score_of(layers, known), target, dtype, shelf)
        upload(target, repository and f"{repository}-{target.name}", private)
        if not json:
            print(target)
    keep(definition, storage, targets)
    if shelf is not None:
        say(f"{shelf.linked / 1e9:.2f} GB were linked instead of written")
    if json:
        print_json([{**r.to_dict(), "out": str(t)} for r, t in zip(rows, targets, strict=True)])


def _named(layers: Sequence[Any]) -> str:
    """A layer set in the name of a folder or repository, where no at sign may stand."""
    return "-".join(map(str, layers)).replace("@", "_") or "none"
