"""`optlayers export`: the checkpoint of one layer set."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from optlayers.cli.app import JsonOption, StorageOption, StudyOption, app, say
from optlayers.storage.connect import DEFAULT_URL

ConvertOption = Annotated[
    str | None,
    typer.Option(
        "--dtype", help="Convert to float32, bfloat16 or float16 (default: weights as they are)."
    ),
]
PushOption = Annotated[
    str | None,
    typer.Option("--push", metavar="REPO", help="Upload to the Hugging Face hub, as OWNER/NAME."),
]
PrivateOption = Annotated[
    bool, typer.Option("--private", help="With --push: a repository that is made is private.")
]


@app.command()
def export(
    layers: Annotated[
        str,
        typer.Option("--layers", help='Donor layers, such as 3,7; "" is the base, all the donor.'),
    ],
    out: Annotated[Path, typer.Option("--out", metavar="DIR", help="A folder that is not yet.")],
    study: StudyOption = "demo",
    storage: StorageOption = DEFAULT_URL,
    dtype: ConvertOption = None,
    push: PushOption = None,
    private: PrivateOption = False,
    json: JsonOption = False,
) -> None:
    """Write one layer set as a checkpoint that transformers loads."""
    from optlayers.checkpoints.parents import open_parents
    from optlayers.cli.recorded import recorded, score_of
    from optlayers.cli.tables import print_json
    from optlayers.config.study import load_study
    from optlayers.layerset import LayerSet
    from optlayers.storage.redact import mask_password

    definition = load_study(study)
    repository = checked(push)
    known = recorded(definition, storage)
    # Only the files that hold these layers are fetched, where the models are not here yet.
    names = definition.donor_names
    early = None if "all" in layers else LayerSet.parse(layers, donors=names)
    parents = open_parents(definition, early)
    chosen = LayerSet.parse(layers, parents.n_layers, names)
    score = score_of(chosen, known)
    write(definition, parents, chosen, score, out, dtype)
    if score is None:
        say(f"{mask_password(storage)} has no evaluation of these layers; no score is written")
    if known and known.leaderboard:
        keep(definition, storage, [out])
    address = upload(out, repository, private)
    if json:
        print_json({"layers": chosen.labels(names), "out": str(out), "pushed": address})
    else:
        print(out)


def checked(push: str | None) -> str | None:
    """The repository of `--push`, once it is known that an upload can be tried."""
    if push is None:
        return None
    from optlayers.checkpoints.push import check_push

    return check_push(push)


def upload(folder: Path, repository: str | None, private: bool) -> str | None:
    """Upload a folder where that is asked for; the address."""
    if repository is None:
        return None
    from optlayers.checkpoints.push import push
    from optlayers.errors import OptlayersError

    say(f"uploading {folder.name} to {repository}")
    try:
        address = push(folder, repository, private)
    except OptlayersError:
        say("")  # the client's bars stand on this line
        raise
    say(f"uploaded to {address}")
    return address


def keep(definition: Any, storage: str, folders: Sequence[Path]) -> None:
    """Keep what the checkpoints say of themselves with the study, where the database has it."""
    from optlayers.report.dashboard import keep_reports
    from optlayers.storage.connect import open_study

    try:
        keep_reports(open_study(storage, definition, create=False), storage, folders)
    except Exception as error:
        # The checkpoints are there; only the dashboard will not show their reports.
        say(f"reports were not kept with the study: {str(error).splitlines()[0]}")


def write(
    definition: Any,
    parents: Any,
    layers: Any,
    score: dict[str, Any] | None,
    out: Path,
    dtype: str | None,
    shelf: Any = None,
) -> None:
    """One checkpoint folder."""
    from optlayers.checkpoints.card import documents
    from optlayers.checkpoints.tokenizer import tokenizer_folder
    from optlayers.checkpoints.writer import export_hybrid
    from optlayers.cli.progress import ByteProgress

    tokenizer = tokenizer_folder(definition)
    texts = documents(definition, parents, layers, score, dtype)
    with ByteProgress(out.name) as progress:
        export_hybrid(
            parents,
            layers,
            out,
            tokenizer,
            texts,
            progress,
            dtype=dtype,
            shelf=shelf,
            graft=definition.graft,
        )
