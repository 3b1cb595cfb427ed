"""What the database says of layer sets: the rows, and the score that goes with a checkpoint."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from optlayers.layerset import LayerSet
    from optlayers.results.leaderboard import LeaderboardRow


@dataclass(frozen=True)
class Recorded:
    """The leaderboard of a study (empty where the database does not have it), and what is below."""

    rows: list[LeaderboardRow] = field(default_factory=list)
    devices: dict[int, str] = field(default_factory=dict)
    study: dict[str, Any] = field(default_factory=dict)

    def score(self, layers: LayerSet) -> dict[str, Any] | None:
        """The score of a layer set with its interval and answers, or None: not evaluated."""
        from optlayers.results.heldout import held_out_of

        row = next((r for r in self.rows if r.record.layers == layers), None)
        if row is None:
            return None
        names = ("score", "ci_low", "ci_high", "questions", "fidelity", "trial")
        held = held_out_of(self.study, layers)
        kept = ("score", "ci_low", "ci_high", "questions")
        return {
            **{name: getattr(row, name) for name in names},
            "answers": row.record.packed_answers,
            "device": self.devices.get(row.trial, ""),
            "evaluated_sets": len(self.rows),
            "held_out": {name: getattr(held, name) for name in kept} if held else None,
        }


def recorded(definition: Any, storage: str) -> Recorded:
    """What a database holds of a study; nothing where it does not have it.

    Raises `StorageError` for a database that cannot be opened or holds another study.
    """
    from optlayers.errors import MissingStudyError
    from optlayers.results.leaderboard import leaderboard
    from optlayers.storage.connect import open_study, storage_errors
    from optlayers.trials import keys
    from optlayers.trials.records import read_records

    try:
        opened = open_study(storage, definition, create=False)
    except MissingStudyError:
        return Recorded()
    with storage_errors(storage):
        trials = opened.get_trials(deepcopy=False)
        attrs = opened.user_attrs
    return Recorded(
        rows=leaderboard(definition, read_records(trials)),
        devices={t.number: str(t.user_attrs.get(keys.DEVICE, "")) for t in trials},
        study=attrs,
    )
