"""`optlayers export`: the checkpoint of one layer set."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from optlayers.cli.app import JsonOption, StorageOption, StudyOption, app, say
from optlayers.storage import DEFAULT_URL


@app.command()
def export(
    layers: Annotated[
        str,
        typer.Option("--layers", help='Donor layers, such as 3,7; "" is the base, all the donor.'),
    ],
    out: Annotated[Path, typer.Option("--out", metavar="DIR", help="A folder that is not yet.")],
    study: StudyOption = "demo",
    storage: StorageOption = DEFAULT_URL,
    json: JsonOption = False,
) -> None:
    """Write one layer set as a checkpoint that transformers loads."""
    from optlayers.cli.tables import print_json
    from optlayers.layerset import LayerSet
    from optlayers.study import load_study

    definition = load_study(study)
    rows = known_rows(definition, storage)
    pair = open_both(definition)
    chosen = LayerSet.parse(layers, pair[0].n_layers)
    row = next((r for r in rows if tuple(r.layers) == chosen.indices), None)
    write(definition, pair, chosen, row, out)
    if json:
        print_json({"layers": list(chosen.indices), "out": str(out)})
    else:
        print(out)


def known_rows(definition: Any, storage: str) -> list[Any]:
    """The leaderboard of the study, or nothing where the database does not have it."""
    from sqlalchemy.engine import make_url

    from optlayers.leaderboard import leaderboard
    from optlayers.search import read_records
    from optlayers.storage import open_study, stored_definition

    if storage.startswith("sqlite"):
        database = make_url(storage).database
        if database and not Path(database).exists():
            return []
    if stored_definition(storage, definition.name) is None:
        return []
    opened = open_study(storage, definition, create=False)
    return list(leaderboard(definition, read_records(opened.get_trials(deepcopy=False))))


def open_both(definition: Any) -> Any:
    """Base and donor, checked; the models are read only when written."""
    from optlayers.evaluation.evaluator import open_pair

    return open_pair(definition)


def write(definition: Any, pair: Any, layers: Any, row: Any, out: Path) -> None:
    """One checkpoint folder."""
    from optlayers.checkpoints.info import checkpoint_info
    from optlayers.checkpoints.writer import export_hybrid
    from optlayers.evaluation.evaluator import tokenizer_folder

    base, donor = pair
    score = None
    if row is not None:
        names = ("score", "ci_low", "ci_high", "questions", "fidelity", "trial")
        score = {name: getattr(row, name) for name in names}
    info = checkpoint_info(definition, base, donor, layers, score)

    def progress(done: int, total: int) -> None:
        if total > 1_000_000_000:
            say(f"{out.name}: {done / 1e9:.1f} of {total / 1e9:.1f} GB")

    export_hybrid(base, donor, layers, out, tokenizer_folder(definition), info, progress)
