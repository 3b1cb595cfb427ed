"""The leaderboard: every evaluated layer set of a study, best first."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from optlayers.config.fields import Fidelity
from optlayers.config.study import StudyDefinition
from optlayers.layerset import Labels
from optlayers.results.comparisons import Comparison
from optlayers.results.heldout import HeldOut
from optlayers.trials.cost import Cost
from optlayers.trials.ranking import ranked
from optlayers.trials.record import Record


@dataclass(frozen=True)
class LeaderboardRow:
    """One layer set of a leaderboard: its rank, and the record that its score comes from.

    layers: indices, or with several donors texts such as 7@b. cost: see `Cost`; None where the
    study counts layers. comparison: None where the row was not compared with the others. Score and
    interval are shares of right answers (0 to 1).
    """

    rank: int
    record: Record
    layers: Labels
    cost: float | None = None
    comparison: Comparison | None = None

    @property
    def n_layers(self) -> int:
        """Number of layers from donors."""
        return len(self.record.layers)

    @property
    def score(self) -> float:
        """Share of right answers."""
        return float(self.record.score or 0.0)

    @property
    def ci_low(self) -> float:
        """Lower end of the 95 % interval."""
        return float(self.record.ci_low or 0.0)

    @property
    def ci_high(self) -> float:
        """Upper end of the 95 % interval; 1 where the trial stored none."""
        return float(1.0 if self.record.ci_high is None else self.record.ci_high)

    @property
    def questions(self) -> int:
        """Number of questions that the score rests on."""
        return int(self.record.questions or 0)

    @property
    def fidelity(self) -> Fidelity:
        """`full` for all questions of the study, else `fast`."""
        return "full" if self.record.is_full else "fast"

    @property
    def trial(self) -> int:
        """Number of the trial."""
        return self.record.number

    @property
    def price(self) -> float:
        """What it costs, in the unit of its study: `cost`, or the number of layers."""
        return float(self.n_layers) if self.cost is None else self.cost

    @property
    def behind(self) -> float | None:
        """Its score minus that of rank 1 on the same questions, where they were compared."""
        found = self.comparison.to_best if self.comparison else None
        return 0.0 if self.rank == 1 else found.difference if found else None

    @property
    def p_value(self) -> float | None:
        """The p-value of `behind`."""
        found = self.comparison.to_best if self.comparison else None
        return found.p_value if found else None

    @property
    def held_out(self) -> HeldOut | None:
        """Its score on held-out questions, where it has answered them."""
        return self.comparison.held_out if self.comparison else None

    @property
    def tied(self) -> bool:
        """Whether it is rank 1, or does not differ significantly from it."""
        return self.rank == 1 or bool(self.comparison and self.comparison.ties_with_best)

    def to_dict(self) -> dict[str, Any]:
        """The row as plain data.

        With `cost` only where the study counts something else than layers, and with the fields of
        the comparison where the row was compared.
        """
        names = ("n_layers", "score", "ci_low", "ci_high", "questions", "fidelity", "trial")
        data = {"rank": self.rank, "layers": self.layers}
        data |= {name: getattr(self, name) for name in names}
        data |= {} if self.cost is None else {"cost": self.cost}
        return data | (self.comparison.to_dict() if self.comparison else {})


def leaderboard(
    definition: StudyDefinition, records: Sequence[Record], cost: Cost | None = None
) -> list[LeaderboardRow]:
    """Every evaluated layer set of the budget with its cost, in the order of `ranked`."""
    space = definition.space()
    return [
        LeaderboardRow(
            rank=rank,
            record=record,
            layers=space.labels(record.layers),
            cost=None if cost is None or cost.table is None else cost.of(record.layers),
        )
        for rank, record in enumerate(ranked(definition, records), start=1)
    ]


def best_of_size(rows: Sequence[LeaderboardRow]) -> list[LeaderboardRow]:
    """The first row of each number of layers, in ascending order."""
    best: dict[int, LeaderboardRow] = {}
    for row in rows:
        best.setdefault(row.n_layers, row)
    return [best[size] for size in sorted(best)]


def front(rows: Sequence[LeaderboardRow]) -> list[LeaderboardRow]:
    """The Pareto front of score and cost, cheap rows first: no row is better at no more cost.

    Of each cost the first row of the leaderboard counts: a full one, where there is any.
    """
    of_cost: dict[float, LeaderboardRow] = {}
    for row in rows:
        of_cost.setdefault(row.price, row)
    found: list[LeaderboardRow] = []
    for _, row in sorted(of_cost.items()):
        if not found or row.score > found[-1].score:
            found.append(row)
    return found
