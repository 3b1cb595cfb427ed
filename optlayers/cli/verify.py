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

    Its answers are compared with those that the study recorded, question by question. Exit code 1
    where something differs.
    """
    from optlayers.cli.tables import print_json
    from optlayers.evaluation.evaluator import pick_device, pick_dtype
    from optlayers.evaluation.strangers import Stranger
    from optlayers.evaluation.verify import check_definition, read_info
    from optlayers.study import load_study

    if limit is not None:
        at_least("--limit", limit, 1)
    at_least("--batch-size", batch_size, 1)
    info = read_info(folder)
    definition = load_study(study or info["study"]["name"])
    check_definition(info, definition, folder)
    where = pick_device(device)
    kind = str(pick_dtype(dtype, where)).removeprefix("torch.")
    stranger = Stranger(folder.resolve(), str(where), kind)
    say("loading and generating")
    text = stranger.generate(prompt, NEW_TOKENS)
    verdict = _measure(info, definition, stranger, limit, batch_size)
    if json:
        print_json(_plain(verdict, text))
    else:
        _show(folder, verdict, prompt + text, info)
    if not verdict.passed:
        raise typer.Exit(1)


def _measure(info: Any, definition: Any, stranger: Any, limit: int | None, batch_size: int) -> Any:
    import sys

    from optlayers.errors import InputError
    from optlayers.evaluation.tasks import TaskSet, hush
    from optlayers.evaluation.verify import compare, recorded_answers

    if definition.real:
        metrics = ", ".join(sorted({task.metric for task in definition.tasks}))
        raise InputError(
            f"the study counts by {metrics}, and verify compares right and wrong answers alone; "
            "the checkpoint loads and generates, and `optlayers eval` measures the rest"
        )
    hush()
    subjects = TaskSet.of(definition).subjects
    path = definition.resolve(definition.task_path) if definition.task_path else None
    say(f"lm_eval on {', '.join(task.name for task in definition.tasks)}")
    mine = stranger.evaluate(definition.tasks, path, limit, batch_size, loud=sys.stderr.isatty())
    score = info.get("score") or {}
    exact = (
        stranger.device == "cpu"
        and score.get("device") == "cpu"
        and stranger.dtype == "float32"
        and info.get("dtype") in (None, "float32")
    )
    return compare(mine, recorded_answers(info, definition, subjects), subjects, exact)


def _plain(verdict: Any, text: str) -> dict[str, Any]:
    from dataclasses import asdict

    return {"passed": verdict.passed, "generated": text, **asdict(verdict)}


def _show(folder: Path, verdict: Any, text: str, info: Any) -> None:
    print(f"loads and generates without optlayers: {text!r}")
    print(
        f"lm_eval: {100 * verdict.score:.2f} % ({100 * verdict.ci_low:.1f} to "
        f"{100 * verdict.ci_high:.1f}, 95 %) on {verdict.questions} questions"
    )
    score = info.get("score")
    if verdict.common:
        print(
            f"on the {verdict.common} of these that the recorded score rests on: "
            f"{100 * verdict.mine:.2f} %, recorded {100 * verdict.recorded:.2f} %, "
            f"{len(verdict.differing)} answers differ"
        )
    elif score:
        print("the recorded score rests on none of these questions; raise --limit")
    else:
        print("no score was recorded to compare with")
    for fault in verdict.faults:
        print(f"differs: {fault}")
    print(f"{folder}: {'pass' if verdict.passed else 'differs'}")
