"""`optlayers verify`: checks a checkpoint as others use it, in processes without optlayers."""

from __future__ import annotations

import sys
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer

from optlayers.cli import options as opt
from optlayers.cli.app import app, say
from optlayers.config.study import load_study
from optlayers.errors import EvaluationError

PROMPT = "The capital of France is"
NEW_TOKENS = 20


@app.command()
def verify(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="A folder that `export` wrote.")],
    study: Annotated[
        str | None,
        typer.Option(metavar="NAME|FILE", help="Its study (default: the one it records)."),
    ] = None,
    limit: opt.Limit = None,
    batch_size: Annotated[
        int, typer.Option(callback=opt.number(1), help="Batch size of lm_eval.")
    ] = 16,
    prompt: Annotated[str, typer.Option(help="Text to continue.")] = PROMPT,
    device: opt.Device = None,
    dtype: opt.Dtype = None,
    json: opt.Json = False,
) -> None:
    """Check a checkpoint: files, generation, and its score.

    It is loaded in processes without optlayers and measured by lm_eval. Its files are compared
    with those that `export` wrote, its answers with those that the study recorded. Exit code 1 if
    something differs; code that was changed is not run.
    """
    from optlayers.checkpoints.files import changed_files, runs_changed_code
    from optlayers.checkpoints.info import check_definition, read_info
    from optlayers.checkpoints.reader import ExportedCheckpoint
    from optlayers.cli.tables import print_json
    from optlayers.evaluation.isolated import IsolatedCheckpoint
    from optlayers.evaluation.verify import RecordedAnswers, check_prompts, compare
    from optlayers.inference.device import pick_device, pick_dtype

    info = read_info(folder)
    definition = load_study(study or info["study"]["name"])
    check_definition(info, definition, folder)
    where = pick_device(device)
    kind = str(pick_dtype(dtype, where)).removeprefix("torch.")
    say("comparing files")
    changed = changed_files(info, folder)
    faults = [f"{name} {why}" for name, why in (changed or {}).items()]
    found: dict[str, Any] = {"files": None if changed is None else len(info["files"])}
    lines: list[str] = []
    if changed and runs_changed_code(changed):
        lines.append("not loaded: that would run the changed code")
    else:
        if not changed:
            ExportedCheckpoint(str(folder), folder)  # what does not load whole is not compared
        recorded = None if definition.is_real_valued else RecordedAnswers.of(info, definition)
        faults += recorded.faults if recorded else []
        isolated = IsolatedCheckpoint(folder.resolve(), str(where), kind)
        try:
            say("loading and generating")
            found["generated"] = isolated.generate(prompt, NEW_TOKENS)
            verdict = None
            if recorded is not None:
                say(f"lm_eval on {', '.join(task.name for task in definition.tasks)}")
                tasks = definition.resolve(definition.task_path) if definition.task_path else None
                loud = sys.stderr.isatty()
                answers = isolated.evaluate(definition.tasks, tasks, limit, batch_size, loud)
                exact = _same_arithmetic(info, str(where), kind)
                verdict = compare(answers, recorded, exact)
                found |= asdict(verdict)
                faults += verdict.faults
            if not json:
                print(f"loads and generates without optlayers: {prompt + found['generated']!r}")
                print("\n".join(_measured(verdict, info, definition)))
        except EvaluationError as error:
            if not changed:
                if recorded is not None:
                    check_prompts(definition, folder, limit)
                raise
            faults.append(str(error))  # which the changed or missing files explain
    word = "differs" if faults else "pass" if found.get("common") else "not compared"
    found |= {"passed": not faults, "verdict": word, "faults": faults}
    if json:
        print_json(found)
    else:
        if changed is None:
            print("no hashes recorded: an early version wrote this checkpoint; export it again")
        elif not changed:
            print(f"all {found['files']} files are as they were written")
        print("\n".join([*(f"differs: {fault}" for fault in faults), *lines, f"{folder}: {word}"]))
    if faults:
        raise typer.Exit(1)


def _same_arithmetic(info: Any, device: str, dtype: str) -> bool:
    """Whether the recorded answers must be reproduced exactly: float32 on a CPU, both times."""
    return (
        device == "cpu"
        and (info.get("score") or {}).get("device") == "cpu"
        and dtype == "float32"
        and info.get("dtype") in (None, "float32")
    )


def _measured(verdict: Any, info: Any, definition: Any) -> list[str]:
    """What lm_eval measured, as lines of text."""
    if verdict is None:
        metrics = ", ".join(sorted({task.metric for task in definition.tasks}))
        return [f"the study scores by {metrics}, which `optlayers eval` measures"]
    lines = [
        f"lm_eval: {100 * verdict.score:.2f} % ({100 * verdict.ci_low:.1f} to "
        f"{100 * verdict.ci_high:.1f}, 95 %) on {verdict.questions} questions"
    ]
    if verdict.common:
        lines.append(
            f"on the {verdict.common} questions with recorded answers: {100 * verdict.mine:.2f} %, "
            f"recorded {100 * verdict.recorded:.2f} %; {len(verdict.differing)} answers differ"
        )
    elif info.get("score"):
        lines.append("none of these questions has a recorded answer; raise --limit")
    else:
        lines.append("no score was recorded to compare with")
    return lines
