"""Evidence: what speaks for a place on the leaderboard, from answers to the same questions.

Paired differences to the next rank, to the best, to base and donor; the held-out score; ties.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import optuna
from numpy.typing import NDArray

from optlayers.results.heldout import HeldOut, held_out_of
from optlayers.results.leaderboard import LeaderboardRow
from optlayers.trials import keys
from optlayers.trials.record import Record, decode_answers
from optlayers.trials.records import donors_in
from optlayers.trials.statistics import Z95, paired_difference

# Two sets tie where the paired test cannot tell them apart at this level.
TIE_LEVEL = 0.05

BoolArray = NDArray[np.bool_]


@dataclass(frozen=True)
class Difference:
    """One score less another on the same questions: shares of right answers, two-sided p."""

    difference: float
    ci_low: float
    ci_high: float
    p_value: float
    questions: int


@dataclass(frozen=True)
class Evidence:
    """What speaks for one row; a field is None where the answers it needs are not there.

    `ties_with_best`: its paired difference to rank 1 has a p-value of `TIE_LEVEL` or more. It says
    that this study cannot tell the two apart, not that they are equal.
    """

    to_next: Difference | None
    to_best: Difference | None
    to_base: Difference | None
    to_donor: Difference | None
    held_out: HeldOut | None
    ties_with_best: bool

    def to_dict(self) -> dict[str, Any]:
        """The evidence as plain data."""
        data = asdict(self)
        return data


@dataclass(frozen=True)
class Looked:
    """How much was looked at: layer sets, and questions evaluated for them.

    held_out: whether any set has answered questions that no decision has seen.
    """

    layer_sets: int
    questions: int
    held_out: bool = False

    def __str__(self) -> str:
        return (
            f"the best of {self.layer_sets} layer sets on {self.questions:,} questions evaluated: "
            "the first of many is partly lucky"
            + (", and its held-out score is not" if self.held_out else "")
        )


def looked(records: Sequence[Record], held_out: bool = False) -> Looked:
    """What the records of a study have cost; held_out: whether held-out answers are shown."""
    sets = {record.layers for record in records if record.is_evaluated}
    return Looked(len(sets), sum(record.evaluated for record in records), held_out)


def evidence(study: optuna.Study, rows: Sequence[LeaderboardRow]) -> list[Evidence]:
    """The evidence of each row of a leaderboard."""
    attrs = study.user_attrs
    compare = _Comparison(attrs)
    answers = [row.record.answers for row in rows]
    base, donor = (_reference(attrs, name) for name in ("base", donors_in(attrs)[0]))
    found = []
    for place, row in enumerate(rows):
        mine = answers[place]
        behind = answers[place + 1] if place + 1 < len(rows) else None
        to_best = None if place == 0 else compare(mine, answers[0])
        found.append(
            Evidence(
                to_next=compare(mine, behind),
                to_best=to_best,
                to_base=compare(mine, base),
                to_donor=compare(mine, donor),
                held_out=held_out_of(attrs, row.record.layers),
                ties_with_best=place > 0
                and row.fidelity == rows[0].fidelity
                and to_best is not None
                and to_best.p_value >= TIE_LEVEL,
            )
        )
    return found


class _Comparison:
    """Paired differences, stratified by the subjects of the study."""

    def __init__(self, attrs: Mapping[str, Any]) -> None:
        strata, weights = attrs.get(keys.QUESTION_STRATA), attrs.get(keys.SUBJECT_WEIGHTS)
        self._strata = None if strata is None else np.asarray(strata, np.intp)
        self._weights = None if weights is None else np.asarray(weights, np.float64)

    def __call__(self, a: BoolArray | None, b: BoolArray | None) -> Difference | None:
        if a is None or b is None or not min(len(a), len(b)):
            return None
        n = min(len(a), len(b))
        pair = paired_difference(a[:n], b[:n], self._strata, self._weights)
        half = Z95 * pair.standard_error
        return Difference(
            pair.difference, pair.difference - half, pair.difference + half, pair.p_value, n
        )


def _reference(attrs: Mapping[str, Any], name: str) -> BoolArray | None:
    packed, n_full = attrs.get(keys.REFERENCE + name), attrs.get(keys.N_FULL)
    return None if packed is None or n_full is None else decode_answers(packed, int(n_full))
