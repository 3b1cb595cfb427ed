"""StudyDefinition: what a study searches, as read from one YAML file.

A definition is data: frozen, validated as a whole (all faults of a file are reported at
once), and never executed. Paths in it are relative to the file.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

from pydantic import (
    AfterValidator,
    Field,
    ValidationError,
    ValidationInfo,
    field_validator,
    model_validator,
)

from optlayers.config.fields import (
    MAP,
    MAX_SEED,
    CostKind,
    DonorSpec,
    Explore,
    Index,
    LayerBudget,
    ModelSpec,
    Part,
    Prior,
    PrunerName,
    Questions,
    Refine,
    SamplerName,
    TaskSpec,
    Text,
    Validate,
    checked_name,
)
from optlayers.config.graft import Graft, Swap
from optlayers.config.metrics import REAL
from optlayers.config.yaml_file import MOST_BYTES, fault, read_fields
from optlayers.errors import InputError, StudyFileError
from optlayers.layerset import ONE, Donors, LayerSet, LayerSpace

__all__ = [
    "LATER",
    "STUDIES",
    "CostKind",
    "DonorSpec",
    "Explore",
    "Fidelity",
    "LayerBudget",
    "ModelSpec",
    "Prior",
    "Questions",
    "Refine",
    "StudyDefinition",
    "TaskSpec",
    "Validate",
    "load_study",
    "parse_study",
    "shipped_studies",
]

# Fields that the first definitions did not have.
LATER = ("swap", "donor_map")

# Installed from a wheel they lie in the package; in a checkout, at its top.
_HERE = Path(__file__).resolve().parents[1]
STUDIES = (_HERE if (_HERE / "studies").is_dir() else _HERE.parent) / "studies"


def _study_name(value: str) -> str:
    return checked_name(
        value,
        r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}",
        "up to 100 letters, digits, dots, dashes and underscores, the first a letter or digit",
    )


class StudyDefinition(Part):
    """A whole study; all but name, base, donor or donors, layers and tasks has a default."""

    name: Annotated[str, AfterValidator(_study_name)] = Field(
        description="of the study in the database"
    )
    base: ModelSpec = Field(description="the cheap model, most of whose layers stay")
    # Before `donor`, which is missing only where this is.
    donors: list[DonorSpec] | None = Field(
        None, min_length=2, description="several strong models in place of `donor`"
    )
    donor: ModelSpec | None = Field(
        None,
        validate_default=True,
        description="the strong model, which gives a few layers; needed without `donors`",
    )
    layers: LayerBudget = Field(description="how many layers may come from donors")
    swap: Swap = Field("layer", description="what of a layer the donor gives")
    donor_map: list[Index] | None = Field(None, min_length=1, description=MAP)
    tasks: list[TaskSpec] = Field(min_length=1, description="what is scored")
    task_path: Text | None = Field(None, description="a folder with lm-eval YAML of your own")
    tokenizer: Text | None = Field(
        None, description="hub id or folder of the tokenizer (null: the donor's)"
    )
    trust_remote_code: bool = Field(False, description="run code that a model's folder brings")
    questions: Questions = Field(default_factory=Questions)
    explore: Explore = Field(default_factory=Explore)
    # `validate` would shadow a method of BaseModel, so the field has another name in code.
    validation: Validate = Field(default_factory=Validate, alias="validate")
    refine: Refine = Field(default_factory=Refine)
    prior: Prior = Field(default_factory=Prior)
    seed: int = Field(0, ge=0, le=MAX_SEED, description="of what is proposed")
    cost: CostKind = Field(
        "layers",
        description="what a set costs, for the front of score and cost: layers from donors, bytes "
        "of cache a token, or the time of a decoding step",
    )
    folder: Path = Field(default=Path("."), exclude=True, repr=False)

    @field_validator("donor")
    @classmethod
    def _one_way(cls, donor: ModelSpec | None, info: ValidationInfo) -> ModelSpec | None:
        """Donor or donors, one of them."""
        if "donors" not in info.data:
            return donor  # they are at fault themselves
        if donor is None and info.data["donors"] is None:
            raise ValueError("is missing; add it")
        if donor is not None and info.data["donors"] is not None:
            raise ValueError("is given, and donors too; keep one of them")
        return donor

    @model_validator(mode="after")
    def _consistent(self) -> StudyDefinition:
        self._check_donors()
        for indices in self.prior.layer_sets:
            if len(self.donor_names) > 1 or any(isinstance(i, str) for i in indices):
                try:
                    LayerSet.parse(",".join(map(str, indices)), None, self.donor_names)
                except InputError as error:
                    raise ValueError(f"prior.layer_sets: {error}") from None
        names = [task.name for task in self.tasks]
        if len(set(names)) != len(names):
            raise ValueError("tasks: a task is named twice; name each task once")
        for indices in self.prior.layer_sets:
            size = len(set(indices))
            if size != len(indices):
                raise ValueError(f"prior.layer_sets: {indices} names a layer twice")
            if not self.layers.min <= size <= self.layers.max:
                raise ValueError(
                    f"prior.layer_sets: {indices} has {size} layers, and layers allows "
                    f"{self.layers.min} to {self.layers.max}"
                )
        scores = self.prior.single_layer_scores
        if scores is not None:
            if len(scores) < self.layers.max:
                raise ValueError(
                    f"prior.single_layer_scores: {len(scores)} scores for at least "
                    f"{self.layers.max} layers; give one score for each layer"
                )
            for known in self.prior_layer_sets:
                if known.indices and known.indices[-1] >= len(scores):
                    raise ValueError(
                        f"prior.layer_sets: {list(known)} names layer {known.indices[-1]}, and "
                        f"prior.single_layer_scores has {len(scores)} layers"
                    )
        return self

    def _check_donors(self) -> None:
        """Raise `ValueError` where what goes with several donors does not fit them."""
        if self.donors is None:
            return
        if len(set(self.donor_names)) != len(self.donor_names):
            raise ValueError("donors: a name is given twice; give each donor a name of its own")
        if self.donor_map is not None:
            raise ValueError("donor_map: is for one donor; give each of donors its own")
        if self.prior.single_layer_scores is not None:
            raise ValueError(
                "prior.single_layer_scores: are for one donor; remove them, and the probe measures "
                "each layer of each donor"
            )

    def exploring(self, sampler: str | None, pruner: str | None) -> StudyDefinition:
        """The same with another sampler or pruner; raises `InputError` for an unknown name."""
        chosen = {}
        for field, name, known in (
            ("sampler", sampler, get_args(SamplerName)),
            ("pruner", pruner, get_args(PrunerName)),
        ):
            if name is None:
                continue
            if name not in known:
                raise InputError(f"--{field} is {name!r}; it is one of {', '.join(known)}")
            chosen[field] = name
        if not chosen:
            return self
        return self.model_copy(update={"explore": self.explore.model_copy(update=chosen)})

    def resolve(self, where: str) -> str:
        """A folder of the file as an absolute path, or a hub id as it is.

        What looks like a path (starts with `.`, `/` or `~`) or exists beside the file is one.
        """
        path = Path(where).expanduser()
        if path.is_absolute():
            return str(path)
        local = (self.folder / path).resolve()
        if local.exists() or where.startswith("."):
            return str(local)
        return where

    @property
    def real(self) -> bool:
        """Whether anything counts by values that are not right or wrong."""
        return any(task.metric in REAL for task in self.tasks)

    @property
    def donor_names(self) -> Donors:
        """What the donors are called in parameters and layer sets."""
        return ONE if self.donors is None else tuple(spec.name for spec in self.donors)

    @property
    def donor_specs(self) -> list[ModelSpec]:
        """The donors' models. Where one donor is asked for, it is the first."""
        if self.donors is not None:
            return list(self.donors)
        return [] if self.donor is None else [self.donor]

    def space(self, n_layers: int | None = None) -> LayerSpace:
        """The layer sets that the study searches, in models of so many layers (None: unknown)."""
        return LayerSpace(n_layers, self.layers.min, self.layers.max, self.donor_names)

    @property
    def graft(self) -> Graft:
        """What a chosen layer takes from the donors."""
        maps = [self.donor_map] if self.donors is None else [d.donor_map for d in self.donors]
        tuples = tuple(None if known is None else tuple(known) for known in maps)
        return Graft(self.swap, tuples, self.donor_names)

    @property
    def prior_layer_sets(self) -> list[LayerSet]:
        """The known good sets of the prior."""
        return [
            LayerSet.parse(",".join(map(str, indices)), None, self.donor_names)
            for indices in self.prior.layer_sets
        ]

    def to_dict(self) -> dict[str, Any]:
        """The definition as plain data, with the names of the file."""
        data: dict[str, Any] = self.model_dump(mode="json", by_alias=True)
        del data["donors" if self.donors is None else "donor"]
        return data

    def identity(self) -> dict[str, Any]:
        """The part that ties a study in the database to its definition: all but budget and cost.

        Fields that came later count where they are used, so that older studies stay the same.
        """
        data = self.to_dict()
        for field in ("explore", "validate", "refine", "cost"):
            del data[field]
        for field in LATER:
            if data[field] == type(self).model_fields[field].get_default():
                del data[field]
        for task in data["tasks"]:
            if task["text"] is None:
                del task["text"], task["chunk"]
        return data

    def fingerprint(self) -> str:
        """SHA-256 of `identity`, first 16 hexadecimal digits."""
        text = json.dumps(self.identity(), sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:16]


def parse_study(text: str, source: str, folder: Path) -> StudyDefinition:
    """Validate the text of a study file; raises `StudyFileError` with all its faults."""
    data = read_fields(text, source)
    if "folder" in data:
        raise StudyFileError(source, ["folder: is not a field of a study file; remove it"])
    try:
        return StudyDefinition.model_validate({**data, "folder": folder})
    except ValidationError as error:
        raise StudyFileError(source, [fault(e) for e in error.errors()]) from None


def load_study(name_or_file: str) -> StudyDefinition:
    """The study of that file, or the shipped study of that name.

    Raises `InputError` when there is neither, `StudyFileError` when it does not validate.
    """
    path = Path(name_or_file)
    try:
        is_file = path.is_file()
    except (OSError, ValueError):
        is_file = False  # no name that a file can have
    if path.suffix not in (".yaml", ".yml") and not is_file:
        shipped = {p.stem: p for p in shipped_studies()}
        if name_or_file not in shipped:
            raise InputError(
                f"study {name_or_file!r}: neither a file nor a shipped study "
                f"({', '.join(sorted(shipped))}); name one of these or a YAML file"
            )
        path = shipped[name_or_file]
    try:
        if path.exists() and not path.is_file() and not path.is_dir():
            raise OSError(0, "not a file")  # a pipe would be waited for
        if is_file and path.stat().st_size > MOST_BYTES:
            raise OSError(0, f"larger than {MOST_BYTES:,} bytes, and so no study file")
        text = path.read_text(encoding="utf-8")
    except (OSError, ValueError) as error:
        why = error.strerror if isinstance(error, OSError) else "not UTF-8 text"
        raise InputError(f"study file {path}: {why}; name a readable YAML file") from None
    return parse_study(text, str(path), path.resolve().parent)


def shipped_studies() -> list[Path]:
    """The study files that ship with optlayers, sorted by name."""
    return sorted(STUDIES.glob("*.yaml"))


Fidelity = Literal["fast", "full"]
