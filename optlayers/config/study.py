"""StudyDefinition: what a study searches, as read from one YAML file.

A definition is data: frozen, validated as a whole (all faults of a file are reported at
once), and never executed. Paths in it are relative to the file.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, get_args

from pydantic import Field, ValidationError, ValidationInfo, field_validator, model_validator

from optlayers.config.fields import (
    MAX_SEED,
    Block,
    CostKind,
    DonorSpec,
    Explore,
    LayerBudget,
    LayerMap,
    ModelSpec,
    Prior,
    Questions,
    Refine,
    TaskSpec,
    Text,
    Validate,
    name_of,
)
from optlayers.config.graft import Graft, Swap
from optlayers.config.metrics import REAL_METRICS
from optlayers.config.yaml_file import fault, read_fields
from optlayers.errors import InputError, StudyFileError
from optlayers.layerset import ONE, Donors, LayerSet, LayerSpace

# Installed from a wheel the studies lie in the package; in a checkout, at its top.
_PACKAGE = Path(__file__).resolve().parents[1]
STUDIES = (_PACKAGE if (_PACKAGE / "studies").is_dir() else _PACKAGE.parent) / "studies"
# A larger file is not a study file.
MAX_BYTES = 1_000_000


class StudyDefinition(Block):
    """A whole study. Required are name, base, donor or donors, layers and tasks."""

    name: Annotated[
        str,
        name_of(
            r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}",
            "up to 100 letters, digits, dots, dashes and underscores, the first a letter or digit",
        ),
    ] = Field(description="name of the study in the database")
    base: ModelSpec = Field(description="the cheap model, most of whose layers stay")
    # Before `donor`, whose validator looks at it.
    donors: list[DonorSpec] | None = Field(
        None, min_length=2, description="several strong models in place of `donor`"
    )
    donor: ModelSpec | None = Field(
        None,
        validate_default=True,
        description="the strong model, which gives a few layers; required without `donors`",
    )
    layers: LayerBudget = Field(description="how many layers may come from donors")
    swap: Swap = Field("layer", description="the part of a layer that the donor gives")
    donor_map: LayerMap = None
    tasks: list[TaskSpec] = Field(min_length=1, description="what is scored")
    task_path: Text | None = Field(None, description="a folder with your own lm-eval YAML")
    tokenizer: Text | None = Field(
        None, description="hub id or folder of the tokenizer (null: the donor's)"
    )
    trust_remote_code: bool = Field(False, description="run code from a model's folder")
    questions: Questions = Field(default_factory=Questions)
    explore: Explore = Field(default_factory=Explore)
    # `validate` would shadow a method of BaseModel, so the field has another name in code.
    validation: Validate = Field(default_factory=Validate, alias="validate")
    refine: Refine = Field(default_factory=Refine)
    prior: Prior = Field(default_factory=Prior)
    seed: int = Field(0, ge=0, le=MAX_SEED, description="seed of the search")
    cost: CostKind = Field(
        "layers",
        description="the cost on the Pareto front of score and cost: layers from donors, bytes of "
        "KV cache per token, or the time of a decoding step",
    )
    folder: Path = Field(default=Path("."), exclude=True, repr=False)

    @field_validator("donor")
    @classmethod
    def _donor_or_donors(cls, donor: ModelSpec | None, info: ValidationInfo) -> ModelSpec | None:
        if "donors" not in info.data:
            return donor  # `donors` is reported separately
        if donor is None and info.data["donors"] is None:
            raise ValueError("is missing; add it")
        if donor is not None and info.data["donors"] is not None:
            raise ValueError("is given, and donors too; keep one of them")
        return donor

    @model_validator(mode="after")
    def _consistent(self) -> StudyDefinition:
        self._check_donors()
        names = [task.name for task in self.tasks]
        if len(set(names)) != len(names):
            raise ValueError("tasks: a task is named twice; name each task once")
        scores = self.prior.single_layer_scores
        if scores is not None and len(scores) < self.layers.max:
            raise ValueError(
                f"prior.single_layer_scores: {len(scores)} scores for at least {self.layers.max} "
                "layers; give one score for each layer"
            )
        space = LayerSpace(None if scores is None else len(scores), donors=self.donor_names)
        for labels in self.prior.layer_sets:
            try:
                size = len(space.parse(_joined(labels)))
            except InputError as error:
                raise ValueError(f"prior.layer_sets: {error}") from None
            if not self.layers.min <= size <= self.layers.max:
                raise ValueError(
                    f"prior.layer_sets: {labels} has {size} layers, and layers allows "
                    f"{self.layers.min} to {self.layers.max}"
                )
        return self

    def _check_donors(self) -> None:
        if self.donors is None:
            return
        if len(set(self.donor_names)) != len(self.donor_names):
            raise ValueError("donors: a name is given twice; give each donor a different name")
        if self.donor_map is not None:
            raise ValueError("donor_map: is for one donor; give each of donors its own")
        if self.prior.single_layer_scores is not None:
            raise ValueError(
                "prior.single_layer_scores: are for one donor; remove them, and the probe phase "
                "measures each layer of each donor"
            )

    def exploring(self, sampler: str | None, pruner: str | None) -> StudyDefinition:
        """The study with another sampler or pruner; raises `InputError` for an unknown name."""
        chosen = {"sampler": sampler, "pruner": pruner}
        chosen = {field: name for field, name in chosen.items() if name is not None}
        for field, name in chosen.items():
            known = get_args(Explore.model_fields[field].annotation)
            if name not in known:
                raise InputError(f"--{field} is {name!r}; choose one of {', '.join(known)}")
        return self.model_copy(update={"explore": self.explore.model_copy(update=chosen)})

    def resolve(self, where: str) -> str:
        """A folder as an absolute path, or a hub id unchanged.

        A folder starts with `.`, `/` or `~`, or exists relative to the study file.
        """
        path = Path(where).expanduser()
        if path.is_absolute():
            return str(path)
        local = (self.folder / path).resolve()
        if local.exists() or where.startswith("."):
            return str(local)
        return where

    @property
    def is_real_valued(self) -> bool:
        """Whether a task has a metric with real values instead of right or wrong."""
        return any(task.metric in REAL_METRICS for task in self.tasks)

    @property
    def donor_names(self) -> Donors:
        """The names of the donors in trial parameters and layer sets."""
        return ONE if self.donors is None else tuple(spec.name for spec in self.donors)

    @property
    def donor_specs(self) -> list[ModelSpec]:
        """The models of the donors."""
        if self.donors is not None:
            return list(self.donors)
        return [] if self.donor is None else [self.donor]

    def space(self, n_layers: int | None = None) -> LayerSpace:
        """The layer sets that the study searches, in models of `n_layers` (None: unknown)."""
        return LayerSpace(n_layers, self.layers.min, self.layers.max, self.donor_names)

    @property
    def graft(self) -> Graft:
        """What a chosen layer takes from the donors."""
        maps = [self.donor_map] if self.donors is None else [d.donor_map for d in self.donors]
        tuples = tuple(None if known is None else tuple(known) for known in maps)
        return Graft(self.swap, tuples, self.donor_names)

    @property
    def prior_layer_sets(self) -> list[LayerSet]:
        """The good layer sets of the prior."""
        return [self.space().parse(_joined(labels)) for labels in self.prior.layer_sets]

    def to_dict(self) -> dict[str, Any]:
        """The definition as plain data, with the names of the file."""
        data: dict[str, Any] = self.model_dump(mode="json", by_alias=True)
        del data["donors" if self.donors is None else "donor"]
        return data

    def identity(self) -> dict[str, Any]:
        """The fields that must not change while a study goes on: all but budget and cost.

        Fields of later versions are in it only where they are used, so that older studies match.
        """
        data = self.to_dict()
        for field in ("explore", "validate", "refine", "cost"):
            del data[field]
        for field, default in (("swap", "layer"), ("donor_map", None)):
            if data[field] == default:
                del data[field]
        for task in data["tasks"]:
            if task["text"] is None:
                del task["text"], task["chunk"]
        return data

    def fingerprint(self) -> str:
        """SHA-256 of `identity`, first 16 hexadecimal digits."""
        text = json.dumps(self.identity(), sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:16]


def _joined(labels: Sequence[Any]) -> str:
    return ",".join(map(str, labels))


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
    """The study in a file, or the shipped study of a name.

    Raises `InputError` where there is neither, `StudyFileError` where the file is not valid.
    """
    path = Path(name_or_file)
    try:
        is_file = path.is_file()
    except (OSError, ValueError):
        is_file = False  # too long for the name of a file
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
            raise OSError(0, "not a file")  # reading a pipe would block
        if is_file and path.stat().st_size > MAX_BYTES:
            raise OSError(0, f"larger than {MAX_BYTES:,} bytes, so not a study file")
        text = path.read_text(encoding="utf-8")
    except (OSError, ValueError) as error:
        why = error.strerror if isinstance(error, OSError) else "not UTF-8 text"
        raise InputError(f"study file {path}: {why}; name a readable YAML file") from None
    return parse_study(text, str(path), path.resolve().parent)


def shipped_studies() -> list[Path]:
    """The study files that ship with optlayers, sorted by name."""
    return sorted(STUDIES.glob("*.yaml"))
