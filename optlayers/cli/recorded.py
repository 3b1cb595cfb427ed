"""What the database holds of the study whose layer sets are exported."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from optlayers.layerset import LayerSet
    from optlayers.results.view import StudyView


def recorded(definition: Any, storage: str) -> StudyView | None:
    """A study as the database has it, or None where it does not have it.

    Raises `StorageError` for a database that cannot be opened or holds another study.
    """
    from optlayers.errors import MissingStudyError
    from optlayers.results.view import StudyView
    from optlayers.storage.connect import open_study, storage_errors

    try:
        opened = open_study(storage, definition, create=False)
    except MissingStudyError:
        return None
    with storage_errors(storage):
        return StudyView.of(definition, opened)


def score_of(layers: LayerSet, known: StudyView | None) -> dict[str, Any] | None:
    """The score of a layer set for its checkpoint, or None where it was not evaluated."""
    from optlayers.trials import keys

    rows = known.leaderboard if known else []
    row = next((row for row in rows if row.record.layers == layers), None)
    if known is None or row is None:
        return None
    [compared] = known.compare([row])
    held, names = compared.held_out, ("score", "ci_low", "ci_high", "questions")
    devices = {t.number: t.user_attrs.get(keys.DEVICE, "") for t in known.trials}
    return {
        **{name: getattr(row, name) for name in (*names, "fidelity", "trial")},
        "answers": row.record.packed_answers,
        "device": str(devices.get(row.trial, "")),
        "evaluated_sets": len(rows),
        "held_out": {name: getattr(held, name) for name in names} if held else None,
    }
