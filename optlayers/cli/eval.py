"""`optlayers eval`: the score of one layer set, as lm_eval computes it."""

from __future__ import annotations

from typing import Any

from optlayers.cli import options as opt
from optlayers.cli.app import app, say
from optlayers.config.study import load_study
from optlayers.errors import EvaluationError


@app.command("eval")
def evaluate(
    layers: opt.Layers,
    study: opt.Study = "demo",
    storage: opt.Storage = opt.DEFAULT_URL,
    limit: opt.Limit = None,
    device: opt.Device = None,
    dtype: opt.Dtype = None,
    json: opt.Json = False,
) -> None:
    """Evaluate one layer set on the tasks of the study.

    No database is used: --storage is accepted as by every command, and has no effect.
    """
    from optlayers.checkpoints.parents import open_for
    from optlayers.cli.tables import print_json
    from optlayers.config.metrics import describe
    from optlayers.evaluation.evaluator import ModelEvaluator
    from optlayers.evaluation.questions import by_subject
    from optlayers.inference.device import pick_device, pick_dtype
    from optlayers.trials.statistics import StratifiedScore

    definition = load_study(study)
    where = pick_device(device)
    _, chosen = open_for(definition, layers)
    evaluator = ModelEvaluator(definition, where, pick_dtype(dtype, where), say, limit)
    say("evaluating")
    subject, document = evaluator.all_questions()
    answers = evaluator.answers([chosen], subject, document)[0]
    if isinstance(answers, EvaluationError):
        raise answers
    scorer = StratifiedScore(strata=subject, weights=evaluator.order.weights)
    interval = scorer.interval(answers)
    native = describe([task.metric for task in definition.tasks], interval.score)
    result: dict[str, Any] = {
        "layers": definition.graft.space().labels(chosen),
        "score": interval.score,
        "ci_low": interval.ci_low,
        "ci_high": interval.ci_high,
        "questions": len(subject),
        "tasks": by_subject(evaluator.order.subjects, subject, answers),
        **({"native": native} if native else {}),
    }
    if json:
        print_json(result)
        return
    print(
        f"layers {','.join(map(str, result['layers'])) or 'none'}: {100 * interval.score:.2f} % "
        f"({100 * interval.ci_low:.1f} to {100 * interval.ci_high:.1f}, 95 %) "
        f"on {len(subject)} questions" + (f"; {native}" if native else "")
    )
    for name, score in result["tasks"].items():
        print(f"  {name}: {100 * score:.2f} %")
