"""The study of a reading command: a file, a shipped one, or one that a database holds."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from optlayers.config.study import StudyDefinition


def study_of(name_or_file: str, storage: str) -> StudyDefinition:
    """As `load_study`; a name that is neither a file nor shipped is looked for in the database.

    Raises `InputError` where that does not hold it either, `StorageError` where it cannot be read.
    """
    import optuna
    from pydantic import ValidationError

    from optlayers.config.study import StudyDefinition, load_study
    from optlayers.errors import InputError, MissingStudyError, StudyFileError
    from optlayers.storage.connect import DEFINITION, open_storage, storage_errors

    try:
        return load_study(name_or_file)
    except StudyFileError:
        raise
    except InputError as error:
        if Path(name_or_file).suffix in (".yaml", ".yml") or Path(name_or_file).exists():
            raise
        unknown = error
    try:
        opened = open_storage(storage, create=False)
        with storage_errors(storage):
            study = optuna.load_study(study_name=name_or_file, storage=opened)
            return StudyDefinition.model_validate(study.user_attrs.get(DEFINITION))
    except (MissingStudyError, KeyError, ValidationError):
        raise unknown from None
