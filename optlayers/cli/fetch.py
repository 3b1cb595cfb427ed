"""`optlayers fetch`: downloads everything that a study reads."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from optlayers.cli import options as opt
from optlayers.cli.app import app, say
from optlayers.config.study import load_study


@app.command()
def fetch(
    study: opt.Study = "demo",
    source: Annotated[
        str,
        typer.Option(
            callback=opt.one_of("huggingface", "modelscope"),
            help="Hub to download the models from: huggingface or modelscope.",
        ),
    ] = "huggingface",
    json: opt.Json = False,
) -> None:
    """Download the models, tokenizer and task data of a study.

    Only the files that are needed. Run it again after an interruption to continue. Task data come
    from where lm-eval downloads them.
    """
    from optlayers.checkpoints.fetch import model_folder, nothing
    from optlayers.checkpoints.modelscope import fetch_modelscope
    from optlayers.checkpoints.parents import open_parents
    from optlayers.checkpoints.tokenizer import load_tokenizer
    from optlayers.cli.tables import print_json
    from optlayers.evaluation.tasks import TaskSet

    definition = load_study(study)
    download = model_folder if source == "huggingface" else fetch_modelscope
    wanted = [(part, s.model, s.revision, needed) for part, s, needed in models_of(definition)]
    if definition.tokenizer:
        wanted.append(("tokenizer", definition.tokenizer, None, nothing))
    folders = {}
    for part, model, revision, needed in wanted:
        say(f"{part} {model}")
        folders[part] = str(download(definition.resolve(model), revision, needed))
    load_tokenizer(definition, open_parents(definition).base)
    say("task data")
    subjects = TaskSet.of(definition).subjects
    questions = sum(subject.size for subject in subjects)
    if json:
        print_json({**folders, "tasks": {"subjects": len(subjects), "questions": questions}})
        return
    for part, folder in folders.items():
        print(f"{part}: {folder}")
    print(f"tasks: {len(subjects)} subjects, {questions} questions")


def models_of(definition: Any) -> list[tuple[str, Any, Any]]:
    """Base and donors of a study: name, specification, and which tensors are needed."""
    from optlayers.checkpoints.fetch import decoder_layers, everything

    donors = zip(definition.donor_names, definition.donor_specs, strict=True)
    return [
        ("base", definition.base, everything),
        *(
            (name, spec, decoder_layers(definition.graft.sources(None, place)))
            for place, (name, spec) in enumerate(donors)
        ),
    ]
