"""What `export` and `export-best` share: scores from the database, writing, and uploading."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from optlayers.cli.app import not_fatal, say
from optlayers.config.study import StudyDefinition
from optlayers.errors import MissingStudyError, OptlayersError
from optlayers.layerset import LayerSet
from optlayers.storage.connect import open_study, storage_errors
from optlayers.trials import keys

if TYPE_CHECKING:
    from optlayers.checkpoints.parents import Parents
    from optlayers.checkpoints.writer import CheckpointWriter
    from optlayers.results.leaderboard import LeaderboardRow


class Exporter:
    """Writes layer sets of a study as checkpoints, each with the score that the database has.

    push: a repository of the hub, or None. rows: the leaderboard, empty where the database does
    not hold the study. Raises `InputError` if an upload cannot work, `StorageError` for a database
    that cannot be read.
    """

    def __init__(
        self,
        definition: StudyDefinition,
        storage: str,
        dtype: str | None,
        push: str | None,
        private: bool,
    ) -> None:
        from optlayers.checkpoints.push import check_push
        from optlayers.results.view import StudyView

        self.definition, self.storage = definition, storage
        self.dtype, self.private = dtype, private
        self.repository = None if push is None else check_push(push)
        self.rows: list[LeaderboardRow] = []
        try:
            self._study = open_study(storage, definition, create=False)
        except MissingStudyError:
            return
        with storage_errors(storage):
            self._view = StudyView.of(definition, self._study)
        self.rows = self._view.leaderboard

    def score(self, layers: LayerSet) -> dict[str, Any] | None:
        """The score of a layer set with interval and answers; None if it was not evaluated."""
        row = next((row for row in self.rows if row.record.layers == layers), None)
        if row is None:
            return None
        held = self._view.compare([row])[0].held_out
        names = ("score", "ci_low", "ci_high", "questions")
        return {
            **{name: getattr(row, name) for name in (*names, "fidelity", "trial")},
            "answers": row.record.packed_answers,
            "documents": self._study.user_attrs.get(keys.DOCUMENTS),
            "device": str(self._view.trials[row.trial].user_attrs.get(keys.DEVICE, "")),
            "evaluated_sets": len(self.rows),
            "held_out": {name: getattr(held, name) for name in names} if held else None,
        }

    def writer(self, parents: Parents, link: bool = False) -> CheckpointWriter:
        """The writer of the study's checkpoints; link: see `CheckpointWriter`."""
        from optlayers.checkpoints.tokenizer import load_tokenizer, tokenizer_folder
        from optlayers.checkpoints.writer import CheckpointWriter

        definition = self.definition
        load_tokenizer(definition, parents.base)  # refuses what `eval` refuses
        folder, trust = tokenizer_folder(definition), definition.trust_remote_code
        return CheckpointWriter(parents, folder, definition.graft, self.dtype, link, trust)

    def write(
        self, writer: CheckpointWriter, layers: LayerSet, out: Path, suffix: str = ""
    ) -> str | None:
        """Write one checkpoint, and upload it if `push` was given; the address of the upload.

        suffix: added to the repository's name.
        """
        from optlayers.checkpoints.card import documents
        from optlayers.checkpoints.push import push
        from optlayers.cli.live import ByteProgress

        score = self.score(layers)
        texts = documents(self.definition, writer.parents, layers, score, self.dtype)
        with ByteProgress(out.name) as progress:
            writer.write(layers, out, texts, progress)
        if self.repository is None:
            return None
        repository = f"{self.repository}{suffix}"
        say(f"uploading {out.name} to {repository}")
        try:
            address = push(out, repository, self.private)
        except OptlayersError:
            say("")  # the client's progress bars are on this line
            raise
        say(f"uploaded to {address}")
        return address

    def keep_reports(self, folders: Sequence[Path]) -> None:
        """Add the model cards to the study's artifacts; a failure is only printed."""
        from optlayers.report.dashboard import keep_reports

        if self.rows:
            with not_fatal("model cards were not added to the study"):
                keep_reports(self._study, self.storage, folders)
