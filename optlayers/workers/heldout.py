"""The held-out check: the best sets, the base and the donor on questions no decision has seen.

The best of many flatters; the questions that a study sets aside (`questions.holdout`) say by how
much. They are answered once, when the search is done, and kept with the study, and so are the
answers of base and donor to the questions of the search, for paired differences.
"""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import optuna

from optlayers.config.study import StudyDefinition
from optlayers.errors import EvaluationError
from optlayers.evaluation.base import Evaluator
from optlayers.layerset import BASE, Donors, Labels, LayerSet, all_of
from optlayers.results.leaderboard import leaderboard, status
from optlayers.trials import keys
from optlayers.trials.cost import is_known
from optlayers.trials.record import Record, encode_answers
from optlayers.trials.records import donors_in, read_records
from optlayers.trials.statistics import StratifiedScore
from optlayers.workers.once import finished, in_turn

KEY = "holdout:"
REFERENCE = "reference:"
N_HELD = "n_held"  # of the study: its number of held-out questions
CHECKED = 10
PARTS = 4  # of the held-out check, so that several workers share it


@dataclass(frozen=True)
class HeldOut:
    """The held-out score of one layer set; `name` is its rank, base or that of a donor."""

    name: str
    layers: Labels
    score: float
    ci_low: float
    ci_high: float
    questions: int


def targets(
    definition: StudyDefinition, records: Sequence[Record], n_layers: int
) -> list[tuple[str, LayerSet]]:
    """What is checked: the best `CHECKED` sets evaluated in full, the base and the donors."""
    rows = [row for row in leaderboard(definition, records) if row.fidelity == "full"]
    best = [(f"rank {row.rank}", row.record.layers) for row in rows[:CHECKED]]
    return [*best, *_references(definition.donor_names, n_layers).items()]


def _references(donors: Donors, n_layers: int) -> dict[str, LayerSet]:
    """The base and the donors by name, as layer sets."""
    found = {name: all_of(place, n_layers, len(donors)) for place, name in enumerate(donors)}
    return {BASE: LayerSet(()), **found}


def check(
    study: optuna.Study,
    definition: StudyDefinition,
    records: Sequence[Record],
    evaluator: Evaluator,
    worker: str,
    *,
    end: float | None = None,
    say: Callable[[str], None] = lambda text: None,
) -> None:
    """Answer what is not answered yet; several workers share the work, and none does it twice.

    Raises `TimeUp` where others are still at it at `end` (monotonic seconds).
    """
    held = len(evaluator.order.held_subject)
    if study.user_attrs.get(N_HELD) != held:
        study.set_user_attr(N_HELD, held)
    work = {
        name: functools.partial(_hold, study, evaluator, sets)
        if sets
        else functools.partial(_refer, study, evaluator)
        for name, sets in _missing(study, definition, records, evaluator.n_layers).items()
    }
    in_turn(study, worker, work, end=end, say=say)


def is_done(study: optuna.Study, definition: StudyDefinition) -> bool:
    """Whether the search is done, and the check that comes after it."""
    if status(definition, study).phase != "done":
        return False
    return is_over(study, definition, read_records(study.get_trials(deepcopy=False)))


def is_over(study: optuna.Study, definition: StudyDefinition, records: Sequence[Record]) -> bool:
    """Whether nothing is left for `check` to ask or to measure, in a study whose search is done."""
    attrs = study.user_attrs
    n_layers = attrs.get(keys.N_LAYERS)
    if not is_known(definition, attrs):
        return False
    return n_layers is not None and finished(study, _missing(study, definition, records, n_layers))


def _missing(
    study: optuna.Study, definition: StudyDefinition, records: Sequence[Record], n_layers: int
) -> dict[str, list[LayerSet]]:
    """The names of the pieces of work with unknown answers, and their sets (base, donor: none)."""
    known = study.user_attrs
    found: dict[str, list[LayerSet]] = {}
    if any(REFERENCE + name not in known for name in (BASE, *definition.donor_names)):
        found["base and donor"] = []
    if known.get(N_HELD):
        wanted = [layers for _, layers in targets(definition, records, n_layers)]
        for part in np.array_split(np.arange(len(wanted)), PARTS):
            sets = [wanted[i] for i in part]
            names = [_key(layers, definition.donor_names) for layers in sets]
            if any(name not in known for name in names):
                digest = hashlib.sha256(" ".join(names).encode()).hexdigest()[:16]
                found[f"held-out check {digest}"] = sets
    return found


def _hold(study: optuna.Study, evaluator: Evaluator, sets: Sequence[LayerSet]) -> None:
    """Answer the held-out questions with these sets, and store what came of it."""
    order = evaluator.order
    scorer = StratifiedScore(strata=order.held_subject, weights=order.weights)
    known = study.user_attrs
    donors = donors_in(known)
    missing = [layers for layers in sets if _key(layers, donors) not in known]
    if not missing:
        return
    for layers, answers in zip(missing, evaluator.held_out(missing), strict=True):
        if isinstance(answers, EvaluationError):
            continue
        # The subjects come one after another here; the interval asks for no order.
        interval = scorer.interval(answers)
        study.set_user_attr(
            _key(layers, donors),
            {
                "score": interval.score,
                "ci_low": interval.ci_low,
                "ci_high": interval.ci_high,
                "questions": len(answers),
                "answers": encode_answers(answers),
            },
        )


def _refer(study: optuna.Study, evaluator: Evaluator) -> None:
    """Answer the questions of the search with base and donors."""
    known = study.user_attrs
    wanted = _references(donors_in(known), evaluator.n_layers)
    missing = {n: layers for n, layers in wanted.items() if REFERENCE + n not in known}
    if not missing:
        return
    found = evaluator.evaluate(list(missing.values()), 0, evaluator.order.n_full)
    for name, answers in zip(missing, found, strict=True):
        if not isinstance(answers, EvaluationError):
            study.set_user_attr(REFERENCE + name, encode_answers(answers))


def results(
    study: optuna.Study, definition: StudyDefinition, records: Sequence[Record], n_layers: int
) -> list[HeldOut]:
    """The held-out scores that the study holds, in the order of `targets`."""
    attrs: dict[str, Any] = study.user_attrs
    found = []
    for name, layers in targets(definition, records, n_layers):
        one = held_out_of(attrs, layers, name)
        if one is not None:
            found.append(one)
    return found


def held_out_of(attrs: Mapping[str, Any], layers: LayerSet, name: str = "") -> HeldOut | None:
    """The held-out score of one set, from the attributes of its study; None where it has none."""
    donors = donors_in(attrs)
    value = attrs.get(_key(layers, donors))
    if value is None:
        return None
    numbers = {k: value[k] for k in ("score", "ci_low", "ci_high", "questions")}
    return HeldOut(name=name, layers=layers.labels(donors), **numbers)


def _key(layers: LayerSet, donors: Donors) -> str:
    return f"{KEY}{layers.text(donors)}"
