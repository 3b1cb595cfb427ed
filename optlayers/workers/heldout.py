"""The held-out check: what remains to be answered when the search of a study is done.

The best of many scores is too high. The questions that a study sets aside (`questions.holdout`)
show by how much. The best sets, the base and the donors answer them once, and the base and the
donors the questions of the search too, for paired differences. The answers are stored with the
study; `results.heldout` reads them.
"""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Callable, Sequence

import numpy as np
import optuna

from optlayers.config.study import StudyDefinition
from optlayers.errors import EvaluationError
from optlayers.evaluation.base import Evaluator
from optlayers.layerset import BASE, LayerSet
from optlayers.search import Phase, phase_of
from optlayers.trials import keys
from optlayers.trials.answers import encode_answers
from optlayers.trials.cost import is_known
from optlayers.trials.ranking import held_out_key, held_out_targets, references
from optlayers.trials.record import Record, read_records, space_in
from optlayers.trials.statistics import StratifiedScore
from optlayers.workers.once import are_done, do_once
from optlayers.workers.watchdog import Watchdog

PARTS = 4  # of the held-out check, so that several workers share it


def check(
    study: optuna.Study,
    definition: StudyDefinition,
    records: Sequence[Record],
    evaluator: Evaluator,
    watchdog: Watchdog,
    worker: str,
    *,
    end: float | None = None,
    say: Callable[[str], None] = lambda text: None,
) -> None:
    """Get the answers that are missing; the workers of a study share them, each is paid for once.

    Raises `TimeUp` where other workers are not done at `end` (monotonic seconds).
    """
    held = len(evaluator.order.held_subject)
    if study.user_attrs.get(keys.N_HELD) != held:
        study.set_user_attr(keys.N_HELD, held)
    work = {
        name: functools.partial(_answer_held_out, study, evaluator, watchdog, sets)
        if sets
        else functools.partial(_answer_references, study, evaluator, watchdog)
        for name, sets in _missing(study, definition, records, evaluator.n_layers).items()
    }
    do_once(study, worker, work, end=end, say=say)


def is_done(study: optuna.Study, definition: StudyDefinition) -> bool:
    """Whether the search is done, and the held-out check after it."""
    n_layers = study.user_attrs.get(keys.N_LAYERS)
    records = read_records(study.get_trials(deepcopy=False))
    if n_layers is None or phase_of(definition, n_layers, records) != Phase.done:
        return False
    return is_checked(study, definition, records, n_layers)


def is_checked(
    study: optuna.Study, definition: StudyDefinition, records: Sequence[Record], n_layers: int
) -> bool:
    """Whether a study whose search is done has all other answers and costs too."""
    if not is_known(definition, study.user_attrs):
        return False
    return are_done(study, _missing(study, definition, records, n_layers))


def _missing(
    study: optuna.Study, definition: StudyDefinition, records: Sequence[Record], n_layers: int
) -> dict[str, list[LayerSet]]:
    """The jobs whose answers are missing, by name: their sets, none for base and donors."""
    known = study.user_attrs
    space = definition.space(n_layers)
    found: dict[str, list[LayerSet]] = {}
    if any(keys.REFERENCE + name not in known for name in (BASE, *space.donors)):
        found["base and donor"] = []
    if known.get(keys.N_HELD):
        wanted = list(held_out_targets(definition, records, space).values())
        for part in np.array_split(np.arange(len(wanted)), PARTS):
            sets = [wanted[i] for i in part]
            names = [held_out_key(layers, space) for layers in sets]
            if any(name not in known for name in names):
                digest = hashlib.sha256(" ".join(names).encode()).hexdigest()[:16]
                found[f"held-out check {digest}"] = sets
    return found


def _answer_held_out(
    study: optuna.Study, evaluator: Evaluator, watchdog: Watchdog, sets: Sequence[LayerSet]
) -> None:
    """Answer the held-out questions with these sets and store the answers."""
    order = evaluator.order
    scorer = StratifiedScore(strata=order.held_subject, weights=order.weights)
    known = study.user_attrs
    space = space_in(known)
    names = {layers: held_out_key(layers, space) for layers in sets}
    missing = [layers for layers in sets if names[layers] not in known]
    if not missing:
        return
    with watchdog.limit(len(missing) * len(order.held_subject)):
        found = evaluator.held_out(missing)
    for layers, answers in zip(missing, found, strict=True):
        if isinstance(answers, EvaluationError):
            continue
        # The questions are sorted by subject here; the interval needs no order.
        interval = scorer.interval(answers)
        study.set_user_attr(
            names[layers],
            {
                "score": interval.score,
                "ci_low": interval.ci_low,
                "ci_high": interval.ci_high,
                "questions": len(answers),
                "answers": encode_answers(answers),
            },
        )


def _answer_references(study: optuna.Study, evaluator: Evaluator, watchdog: Watchdog) -> None:
    """Answer the questions of the search with the base and the donors and store the answers."""
    known = study.user_attrs
    wanted = references(space_in(known))
    missing = {n: layers for n, layers in wanted.items() if keys.REFERENCE + n not in known}
    if not missing:
        return
    n_full = evaluator.order.n_full
    with watchdog.limit(len(missing) * n_full):
        found = evaluator.evaluate(list(missing.values()), 0, n_full)
    for name, answers in zip(missing, found, strict=True):
        if not isinstance(answers, EvaluationError):
            study.set_user_attr(keys.REFERENCE + name, encode_answers(answers))
