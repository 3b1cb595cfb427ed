"""`optlayers fetch`: bring everything that a study reads onto this machine."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from optlayers.cli.app import JsonOption, StudyOption, app, say


@app.command()
def fetch(
    study: StudyOption = "demo",
    source: Annotated[
        str, typer.Option("--source", help="Where models come from: huggingface or modelscope.")
    ] = "huggingface",
    json: JsonOption = False,
) -> None:
    """Fetch base, donor, tokenizer and task data of a study; only the files that are needed.

    Run it again after an interruption, and it goes on. Task data always come from where lm-eval
    takes them.
    """
    from optlayers.cli.tables import print_json
    from optlayers.config.study import load_study
    from optlayers.errors import InputError

    if source not in ("huggingface", "modelscope"):
        raise InputError(f"--source {source!r}: choose huggingface or modelscope")
    definition = load_study(study)
    folders = _models(definition, source)
    from optlayers.checkpoints.parents import open_parents
    from optlayers.checkpoints.tokenizer import load_tokenizer
    from optlayers.evaluation.tasks import TaskSet

    open_parents(definition)
    load_tokenizer(definition)
    say("task data")
    subjects = TaskSet.of(definition).subjects
    questions = sum(subject.size for subject in subjects)
    if json:
        counts = {"subjects": len(subjects), "questions": questions}
        print_json({**folders, "tasks": counts})
        return
    for part, folder in folders.items():
        print(f"{part}: {folder}")
    print(f"tasks: {len(subjects)} subjects, {questions} questions")


def _models(definition: Any, source: str) -> dict[str, str]:
    """The folders of base, donor and tokenizer, fetched where they are not here yet."""
    from optlayers.checkpoints.fetch import decoder_layers, everything, model_folder, nothing
    from optlayers.checkpoints.modelscope import fetch_modelscope

    bring = model_folder if source == "huggingface" else fetch_modelscope
    wanted: list[tuple[str, str, str | None, Any]] = [
        ("base", definition.base.model, definition.base.revision, everything)
    ]
    for place, (name, spec) in enumerate(
        zip(definition.donor_names, definition.donor_specs, strict=True)
    ):
        given = decoder_layers(definition.graft.sources(None, place))
        wanted.append((name, spec.model, spec.revision, given))
    if definition.tokenizer:
        wanted.append(("tokenizer", definition.tokenizer, None, nothing))
    folders = {}
    for part, where, revision, needed in wanted:
        say(f"{part} {where}")
        folders[part] = str(bring(definition.resolve(where), revision, needed))
    return folders
