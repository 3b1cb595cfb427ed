"""Studies and checkpoints that earlier versions wrote, unpacked from `tests/data`."""

from __future__ import annotations

import gzip
import json
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from optlayers.config.study import StudyDefinition, load_study
from tests.helpers.paths import ROOT

DATA = ROOT / "tests" / "data"
VERSIONS = sorted(path.name for path in DATA.iterdir() if path.is_dir())
STUDIES = ("one", "two", "begun", "tiny")


@dataclass(frozen=True)
class Earlier:
    """A study of an earlier version, in a folder where it may be written to."""

    version: str
    name: str
    folder: Path

    @property
    def file(self) -> Path:
        """The study file."""
        return DATA / self.version / f"{self.name}.yaml"

    @property
    def url(self) -> str:
        """The URL of the database."""
        return f"sqlite:///{self.folder / self.name}.db"

    @property
    def definition(self) -> StudyDefinition:
        """The study file, as this version reads it."""
        return load_study(str(self.file))

    @property
    def expected(self) -> dict[str, Any]:
        """What `status` and `leaderboard` said then."""
        found: dict[str, Any] = json.loads((DATA / self.version / "expected.json").read_text())
        return found[self.name]  # type: ignore[no-any-return]


def unpack(version: str, name: str, folder: Path) -> Earlier:
    """Copy a study's database into a folder."""
    source = DATA / version / f"{name}.db.gz"
    with gzip.open(source) as packed, (folder / f"{name}.db").open("wb") as plain:
        shutil.copyfileobj(packed, plain)
    return Earlier(version, name, folder)
