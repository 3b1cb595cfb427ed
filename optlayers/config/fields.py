"""The parts of a study file: models, budget, tasks, questions and phases, each with its rules."""

from __future__ import annotations

import re
from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Discriminator,
    Field,
    Tag,
    model_validator,
)

from optlayers.config.metrics import REAL
from optlayers.layerset import AT, BASE

# What numpy and Optuna take as a seed.
MAX_SEED = 2**32 - 1

MAP = "the donor's layer for each layer of the base"

# More than any search can use, and little enough for whatever counts with it.
MOST = 1_000_000


def _text(value: str) -> str:
    """The text of a field; raises `ValueError` for one that is blank or cannot be a name."""
    if not value.strip() or not value.isprintable():
        raise ValueError(f"expected a name or a path; found {value!r}, so write one")
    return value


Text = Annotated[str, AfterValidator(_text)]
Index = Annotated[int, Field(ge=0, le=MOST)]
_Weight = Annotated[float, Field(gt=0, le=MOST, allow_inf_nan=False)]


class Part(BaseModel):
    """A block of a study file: no field that is unknown, nothing converted, nothing changed."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


class ModelSpec(Part):
    """One model: a hub id, or a folder relative to the study file."""

    model: Text = Field(description="hub id or folder")
    revision: Text | None = Field(None, description="branch, tag or commit on the hub")


def checked_name(value: str, pattern: str, rule: str) -> str:
    """The value; raises `ValueError` with the rule where it does not match the pattern."""
    if re.fullmatch(pattern, value) is None:
        shown = value if len(value) <= 60 else value[:57] + "..."
        raise ValueError(f"expected {rule}; found {shown!r}, so change it")
    return value


def _donor_name(value: str) -> str:
    return checked_name(
        value,
        rf"(?!{BASE}$)[A-Za-z0-9][A-Za-z0-9_]{{0,29}}",
        "up to 30 letters, digits and underscores, the first a letter or digit, and not base",
    )


class DonorSpec(ModelSpec):
    """One of several donors: a model, and the name that layers from it have."""

    name: Annotated[str, AfterValidator(_donor_name)] = Field(
        description="as it stands in layer sets: `7@name`"
    )
    donor_map: list[Index] | None = Field(None, min_length=1, description=MAP)


class LayerBudget(Part):
    """How many layers may come from donors, both ends included."""

    min: int = Field(1, ge=1, le=MOST, description="donor layers at least")
    max: int = Field(4, ge=1, le=MOST, description="donor layers at most")

    @model_validator(mode="after")
    def _ordered(self) -> LayerBudget:
        if self.min > self.max:
            raise ValueError(f"min is {self.min} and max is {self.max}; min must not exceed max")
        return self


class TaskSpec(Part):
    """One part of the objective: an lm-eval task or group, or a text file, and what counts of it.

    A task counts by a metric of its own, from 0 to 1 for a question (acc, acc_norm), after its
    first filter or, as lm-eval names results, after another (acc,strict); or by logprob: the
    log-probability of the right answer, a token. A text counts by perplexity, or by kl: the
    divergence from the donor, both a token.
    """

    name: Text = Field(description="a task or group of lm-eval, or of `task_path`")
    weight: _Weight = Field(1.0, description="its part of the score, beside other tasks")
    metric: Text = Field(
        "acc", description="acc, acc_norm, acc,FILTER, logprob; of a text perplexity or kl"
    )
    num_fewshot: int | None = Field(
        None, ge=0, le=MOST, description="examples in the prompt (null: as the task says)"
    )
    text: Text | None = Field(None, description="a text file instead of a task")
    chunk: int = Field(
        512, ge=2, le=MOST, description="tokens of the text that count as one question"
    )

    @property
    def measure(self) -> str:
        """The metric without its filter."""
        return self.metric.partition(",")[0]

    @property
    def filter(self) -> str | None:
        """The filter that the metric names; None: the task's first."""
        return self.metric.partition(",")[2] or None

    @model_validator(mode="after")
    def _fits(self) -> TaskSpec:
        if "," in self.metric and not (self.measure and self.filter):
            raise ValueError(f"expected METRIC or METRIC,FILTER; found {self.metric!r}")
        if self.filter and self.measure in REAL:
            raise ValueError(f"{self.measure} is taken before any filter; write it alone")
        of_text = self.metric in ("perplexity", "kl")
        if of_text and self.text is None:
            raise ValueError(f"metric {self.metric} is of a text; name a file with text")
        if self.text is not None and not of_text:
            raise ValueError(f"a text counts by perplexity or kl, and metric is {self.metric!r}")
        return self


class Questions(Part):
    """How many questions of each subject a score rests on (null: all of them)."""

    fast: int | None = Field(
        20, ge=1, le=MOST, description="of each subject, that every set answers"
    )
    full: int | None = Field(
        None, ge=1, le=MOST, description="of each subject, that the good sets answer"
    )
    holdout: float = Field(0.0, ge=0.0, lt=1.0, description="share of each subject set aside")
    seed: int = Field(0, ge=0, le=MAX_SEED, description="of the order of the questions")
    fast_precision: Literal["model", "fp8"] = Field(
        "model",
        description="fp8: the fast questions run in eight bits (a GPU of compute capability 8.9), "
        "and once more in the model's own for the sets that go on",
    )

    @model_validator(mode="after")
    def _ordered(self) -> Questions:
        if self.full is not None and (self.fast is None or self.fast > self.full):
            fast = "all" if self.fast is None else self.fast
            raise ValueError(f"fast is {fast} and full is {self.full}; fast must not exceed full")
        return self


CostKind = Literal["layers", "kv_bytes", "latency"]
SamplerName = Literal["pattern-ga", "tpe", "nsgaii", "random", "greedy", "beam"]
PrunerName = Literal["racing", "halving", "none"]


class Explore(Part):
    """The genetic search at fast fidelity."""

    population: int = Field(40, ge=2, le=MOST, description="layer sets in a generation")
    generations: int = Field(20, ge=1, le=MOST, description="at most")
    patience: int = Field(
        6, ge=1, le=MOST, description="generations without a better set before it stops"
    )
    sampler: SamplerName = Field("pattern-ga", description="what proposes the layer sets")
    pruner: PrunerName = Field("racing", description="what stops sets early")


class Validate(Part):
    """The best sets of the search are evaluated in full, as far as they are not."""

    top: int = Field(20, ge=0, le=MOST, description="how many of them")


class Refine(Part):
    """Local search around the best sets."""

    top: int = Field(3, ge=0, le=MOST, description="sets whose neighbours are looked at")
    verify: int = Field(5, ge=1, le=MOST, description="neighbours a round evaluated in full")
    rounds: int = Field(
        10, ge=0, le=MOST, description="at most; it ends when a round finds nothing better"
    )


def _kind_of_choice(value: Any) -> str:
    return "named" if isinstance(value, str) and AT in value else "index"


# A layer, or with several donors a text such as 7@b.
Choice = Annotated[
    Annotated[Index, Tag("index")] | Annotated[str, Tag("named")],
    Discriminator(_kind_of_choice),
]
Share = Annotated[float, Field(ge=0.0, le=1.0, allow_inf_nan=False)]


class Prior(Part):
    """What is known before the search: skips the probe phase and seeds the population."""

    single_layer_scores: list[Share] | None = Field(
        None, description="the score of each donor layer alone, 0 to 1; the probe is left out"
    )
    layer_sets: list[list[Choice]] = Field(
        default_factory=list, description="sets that are known to be good"
    )
