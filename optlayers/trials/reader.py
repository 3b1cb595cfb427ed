"""RecordReader: reads the trials of a study again and again, each finished one once."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from optuna.trial import FrozenTrial

from optlayers.trials.record import Record
from optlayers.trials.records import read_record


class RecordReader:
    """`read_records` with a memory: a finished trial never changes, so it is read once.

    Safe to share between threads (at worst a trial is read twice) and between studies.
    """

    def __init__(self) -> None:
        # The times tell apart trials of one number in different studies.
        self._finished: dict[int, tuple[Any, Any, Record | None]] = {}

    def read(self, trials: Iterable[FrozenTrial]) -> list[Record]:
        """Trials as records, by trial number; trials without a layer set are left out."""
        finished = self._finished
        found: list[Record] = []
        for trial in trials:
            begun, ended = trial.datetime_start, trial.datetime_complete
            known = finished.get(trial.number)
            record: Record | None
            if known is not None and known[0] == begun and known[1] == ended:
                record = known[2]
            else:
                record = read_record(trial)
                if trial.state.is_finished():
                    finished[trial.number] = (begun, ended, record)
            if record is not None:
                found.append(record)
        found.sort(key=lambda record: record.number)
        return found

    def __getstate__(self) -> dict[str, Any]:
        return {"_finished": {}}
