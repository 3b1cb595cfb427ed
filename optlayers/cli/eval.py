"""`optlayers eval`: the score of one layer set, as lm_eval would give it."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from optlayers.cli.app import (
    DeviceOption,
    DtypeOption,
    JsonOption,
    StorageOption,
    StudyOption,
    app,
    at_least,
    say,
)
from optlayers.storage.connect import DEFAULT_URL


@app.command("eval")
def evaluate(
    layers: Annotated[
        str,
        typer.Option("--layers", help='Donor layers, such as 3,7; "" is the base, all the donor.'),
    ],
    study: StudyOption = "demo",
    storage: StorageOption = DEFAULT_URL,
    limit: Annotated[
        int | None, typer.Option("--limit", help="The first N documents of each task.")
    ] = None,
    device: DeviceOption = None,
    dtype: DtypeOption = None,
    json: JsonOption = False,
) -> None:
    """Evaluate one layer set on the study's tasks; nothing is read from or written to a database.

    `--storage` is taken as every command takes it, and not used.
    """
    from optlayers.cli.tables import print_json
    from optlayers.config.study import load_study

    if limit is not None:
        at_least("--limit", limit, 1)
    definition = load_study(study)
    result = _evaluate(definition, layers, limit, device, dtype)
    if json:
        print_json(result)
        return
    shown = ",".join(map(str, result["layers"])) or "none"
    print(
        f"layers {shown}: {100 * result['score']:.2f} % "
        f"({100 * result['ci_low']:.1f} to {100 * result['ci_high']:.1f}, 95 %) "
        f"on {result['questions']} questions"
        + (f"; {result['native']}" if "native" in result else "")
    )
    for name, score in result["tasks"].items():
        print(f"  {name}: {100 * score:.2f} %")


def _evaluate(
    definition: Any, layers: str, limit: int | None, device: str | None, dtype: str | None
) -> dict[str, Any]:
    from optlayers.checkpoints.parents import open_parents
    from optlayers.config.metrics import describe
    from optlayers.errors import EvaluationError
    from optlayers.evaluation.evaluator import ModelEvaluator
    from optlayers.evaluation.questions import by_subject
    from optlayers.inference.device import pick_device, pick_dtype
    from optlayers.layerset import LayerSet
    from optlayers.trials.statistics import StratifiedScore

    where = pick_device(device)
    names = definition.donor_names
    chosen = LayerSet.parse(layers, open_parents(definition).n_layers, names)
    evaluator = ModelEvaluator(definition, where, pick_dtype(dtype, where), say, limit)
    say("evaluating")
    subject, document = evaluator.all_questions()
    answers = evaluator.answers([chosen], subject, document)[0]
    if isinstance(answers, EvaluationError):
        raise answers
    scorer = StratifiedScore(strata=subject, weights=evaluator.order.weights)
    interval = scorer.interval(answers)
    native = describe([task.metric for task in definition.tasks], interval.score)
    return {
        "layers": chosen.labels(names),
        "score": interval.score,
        "ci_low": interval.ci_low,
        "ci_high": interval.ci_high,
        "questions": len(subject),
        "tasks": by_subject(evaluator.order.subjects, subject, answers),
        **({"native": native} if native else {}),
    }
