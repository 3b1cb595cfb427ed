"""Paired comparisons of layer sets that answered the same questions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from optlayers.layerset import BASE
from optlayers.results.answers import reference_answers, scorer_of
from optlayers.results.heldout import HeldOut, held_out_of
from optlayers.trials.answers import Answers
from optlayers.trials.record import Record, space_in
from optlayers.trials.statistics import Z95, paired_difference

# Two sets tie where the paired test does not tell them apart at this level.
TIE_LEVEL = 0.05


@dataclass(frozen=True)
class Difference:
    """One score minus another on the same questions: shares of right answers, two-sided p."""

    difference: float
    ci_low: float
    ci_high: float
    p_value: float
    questions: int


@dataclass(frozen=True)
class Comparison:
    """How a row of a leaderboard compares; a field is None where answers are missing.

    to_next, to_best: to the next and the first row. to_base, to_donor: to the base and the first
    donor. ties_with_best: the difference to the first row is not significant at `TIE_LEVEL`, which
    does not show that the two are equal.
    """

    to_next: Difference | None
    to_best: Difference | None
    to_base: Difference | None
    to_donor: Difference | None
    held_out: HeldOut | None
    ties_with_best: bool

    def to_dict(self) -> dict[str, Any]:
        """The comparison as plain data."""
        return asdict(self)


def compare(records: Sequence[Record], attrs: Mapping[str, Any]) -> list[Comparison]:
    """Compare each record with the next, the first, the base and the donor.

    records: in the order of a leaderboard. attrs: the user attributes of their study.
    """
    scorer = scorer_of(attrs)
    strata, weights = (scorer.strata, scorer.weights) if scorer else (None, None)

    def difference(a: Answers | None, b: Answers | None) -> Difference | None:
        n = 0 if a is None or b is None else min(len(a), len(b))
        if a is None or b is None or not n:
            return None
        pair = paired_difference(a[:n], b[:n], strata, weights)
        half = Z95 * pair.standard_error
        low, high = pair.difference - half, pair.difference + half
        return Difference(pair.difference, low, high, pair.p_value, n)

    base, donor = (reference_answers(attrs, name) for name in (BASE, space_in(attrs).donors[0]))
    found = []
    for place, record in enumerate(records):
        mine = record.answers
        behind = records[place + 1].answers if place + 1 < len(records) else None
        to_best = difference(mine, records[0].answers) if place else None
        same_fidelity = record.is_full == records[0].is_full
        found.append(
            Comparison(
                to_next=difference(mine, behind),
                to_best=to_best,
                to_base=difference(mine, base),
                to_donor=difference(mine, donor),
                held_out=held_out_of(attrs, record.layers),
                ties_with_best=to_best is not None
                and same_fidelity
                and to_best.p_value >= TIE_LEVEL,
            )
        )
    return found
