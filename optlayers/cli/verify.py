"""`optlayers verify`: whether a checkpoint is what it says, used as a stranger would use it."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from optlayers.cli.app import DeviceOption, DtypeOption, JsonOption, app, at_least, say

PROMPT = "The capital of France is"
NEW_TOKENS = 20


@app.command()
def verify(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="A folder that `export` wrote.")],
    study: Annotated[
        str | None,
        typer.Option("--study", metavar="NAME|FILE", help="Its study (default: as it says)."),
    ] = None,
    limit: Annotated[
        int | None, typer.Option("--limit", help="The first N documents of each task.")
    ] = None,
    batch_size: Annotated[int, typer.Option("--batch-size", help="Of lm_eval.")] = 16,
    prompt: Annotated[str, typer.Option("--prompt", help="What to generate from.")] = PROMPT,
    device: DeviceOption = None,
    dtype: DtypeOption = None,
    json: JsonOption = False,
) -> None:
    """Load a checkpoint where optlayers is not, generate, and let lm_eval measure it.

    Its files are compared with what `export` wrote, and its answers with those that the study
    recorded, question by question. Exit code 1 where something differs; changed code is not run.
    """
    import sys
    from dataclasses import asdict

    from optlayers.cli.tables import print_json
    from optlayers.config.study import load_study
    from optlayers.errors import EvaluationError
    from optlayers.evaluation.isolated import Stranger
    from optlayers.evaluation.verify import (
        RecordedAnswers,
        changed_files,
        check_definition,
        compare,
        read_info,
        runs_changed_code,
    )
    from optlayers.inference.device import pick_device, pick_dtype

    if limit is not None:
        at_least("--limit", limit, 1)
    at_least("--batch-size", batch_size, 1)
    info = read_info(folder)
    definition = load_study(study or info["study"]["name"])
    check_definition(info, definition, folder)
    where = pick_device(device)
    kind = str(pick_dtype(dtype, where)).removeprefix("torch.")
    say("comparing files")
    changed = changed_files(info, folder)
    faults = [f"{name} {why}" for name, why in (changed or {}).items()]
    found: dict[str, Any] = {"files": None if changed is None else len(info["files"])}
    runs_changed = bool(changed) and runs_changed_code(changed or {})
    if not runs_changed:
        recorded = None if definition.real else RecordedAnswers.of(info, definition)
        faults += recorded.faults if recorded else []
        stranger = Stranger(folder.resolve(), str(where), kind)
        try:
            say("loading and generating")
            found["generated"] = stranger.generate(prompt, NEW_TOKENS)
            verdict = None
            if recorded is not None:
                say(f"lm_eval on {', '.join(task.name for task in definition.tasks)}")
                path = definition.resolve(definition.task_path) if definition.task_path else None
                loud = sys.stderr.isatty()
                mine = stranger.evaluate(definition.tasks, path, limit, batch_size, loud)
                verdict = compare(mine, recorded, _same_arithmetic(info, stranger))
                found |= asdict(verdict)
                faults += verdict.faults
            if not json:
                print(f"loads and generates without optlayers: {prompt + found['generated']!r}")
                _show_measured(verdict, info, definition)
        except EvaluationError as error:
            if not changed:
                raise
            faults.append(str(error))  # and what was changed or is missing says why
    compared = bool(found.get("common"))
    word = "differs" if faults else "pass" if compared else "not compared"
    found |= {"passed": not faults, "verdict": word, "faults": faults}
    if json:
        print_json(found)
    else:
        _show(folder, found, changed, runs_changed)
    if faults:
        raise typer.Exit(1)


def _same_arithmetic(info: Any, stranger: Any) -> bool:
    """Whether the recorded answers were given by what a stranger computes, to the last bit."""
    return (
        stranger.device == "cpu"
        and (info.get("score") or {}).get("device") == "cpu"
        and stranger.dtype == "float32"
        and info.get("dtype") in (None, "float32")
    )


def _show_measured(verdict: Any, info: Any, definition: Any) -> None:
    if verdict is None:
        metrics = ", ".join(sorted({task.metric for task in definition.tasks}))
        print(f"the study counts by {metrics}; measure that with `optlayers eval`")
        return
    print(
        f"lm_eval: {100 * verdict.score:.2f} % ({100 * verdict.ci_low:.1f} to "
        f"{100 * verdict.ci_high:.1f}, 95 %) on {verdict.questions} questions"
    )
    if verdict.common:
        print(
            f"on the {verdict.common} of these that the recorded score rests on: "
            f"{100 * verdict.mine:.2f} %, recorded {100 * verdict.recorded:.2f} %, "
            f"{len(verdict.differing)} answers differ"
        )
    elif info.get("score"):
        print("the recorded score rests on none of these questions; raise --limit")
    else:
        print("no score was recorded to compare with")


def _show(
    folder: Path, found: dict[str, Any], changed: dict[str, str] | None, runs_changed: bool
) -> None:
    if changed is None:
        print("no hashes were recorded: an early version wrote it; export it again for them")
    elif not changed:
        print(f"all {found['files']} files are those that were written")
    for fault in found["faults"]:
        print(f"differs: {fault}")
    if runs_changed:
        print("it was not loaded, since that would run what was changed")
    print(f"{folder}: {found['verdict']}")
