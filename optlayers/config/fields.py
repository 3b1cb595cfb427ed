"""The blocks of a study file: models, budget, tasks, questions and phases, each with its rules."""

from __future__ import annotations

import re
from typing import Annotated, Literal

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Discriminator,
    Field,
    Tag,
    model_validator,
)

from optlayers.config.metrics import REAL_METRICS
from optlayers.layerset import AT, BASE

# What numpy and Optuna accept as a seed.
MAX_SEED = 2**32 - 1
# Larger numbers would overflow in numpy; no study needs them.
MAX_NUMBER = 1_000_000


def _text(value: str) -> str:
    if not value.strip() or not value.isprintable():
        raise ValueError(f"expected a name or a path; found {value!r}, so write one")
    return value


def name_of(pattern: str, rule: str) -> AfterValidator:
    """A check that text matches a pattern; `rule` is the pattern in words."""

    def check(value: str) -> str:
        if re.fullmatch(pattern, value) is None:
            shown = value if len(value) <= 60 else value[:57] + "..."
            raise ValueError(f"expected {rule}; found {shown!r}, so change it")
        return value

    return AfterValidator(check)


Text = Annotated[str, AfterValidator(_text)]
Index = Annotated[int, Field(ge=0, le=MAX_NUMBER)]
Count = Annotated[int, Field(ge=1, le=MAX_NUMBER)]
LayerMap = Annotated[
    list[Index] | None,
    Field(min_length=1, description="the donor's layer for each layer of the base"),
]


class Block(BaseModel):
    """A block of a study file: frozen, without unknown fields, and without conversion of types."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


class ModelSpec(Block):
    """One model: a hub id, or a folder relative to the study file."""

    model: Text = Field(description="hub id or folder")
    revision: Text | None = Field(None, description="branch, tag or commit on the hub")


class DonorSpec(ModelSpec):
    """One of several donors: a model, and the name that layers from it have."""

    name: Annotated[
        str,
        name_of(
            rf"(?!{BASE}$)[A-Za-z0-9][A-Za-z0-9_]{{0,29}}",
            "up to 30 letters, digits and underscores, the first a letter or digit, and not base",
        ),
    ] = Field(description="its name in layer sets: `7@name`")
    donor_map: LayerMap = None


class LayerBudget(Block):
    """How many layers may come from donors, both ends included."""

    min: Count = Field(1, description="minimum number of donor layers")
    max: Count = Field(4, description="maximum number of donor layers")

    @model_validator(mode="after")
    def _ordered(self) -> LayerBudget:
        if self.min > self.max:
            raise ValueError(f"min is {self.min} and max is {self.max}; min must not exceed max")
        return self


class TaskSpec(Block):
    """One part of the objective: an lm-eval task or group, or a text file, and its metric.

    The metric of a task is one that the task defines, with values from 0 to 1 (acc, acc_norm),
    after the task's first filter or after the one that follows a comma (acc,strict), as lm-eval
    names results; or logprob, the log-probability of the right answer per token. The metric of a
    text is perplexity, or kl, the divergence from the donor, both per token.
    """

    name: Text = Field(description="a task or group of lm-eval, or of `task_path`")
    weight: Annotated[float, Field(gt=0, le=MAX_NUMBER, allow_inf_nan=False)] = Field(
        1.0, description="its weight in the score, relative to the other tasks"
    )
    metric: Text = Field(
        "acc", description="acc, acc_norm, acc,FILTER, logprob; of a text perplexity or kl"
    )
    num_fewshot: int | None = Field(
        None, ge=0, le=MAX_NUMBER, description="examples in the prompt (null: the task's default)"
    )
    text: Text | None = Field(None, description="a text file instead of a task")
    chunk: int = Field(
        512, ge=2, le=MAX_NUMBER, description="tokens of the text that count as one question"
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
        if self.filter and self.measure in REAL_METRICS:
            raise ValueError(f"{self.measure} is computed before any filter; write it alone")
        of_text = self.metric in ("perplexity", "kl")
        if of_text and self.text is None:
            raise ValueError(f"metric {self.metric} needs a text; name a file with text")
        if self.text is not None and not of_text:
            raise ValueError(f"metric of a text: expected perplexity or kl; found {self.metric!r}")
        return self


class Questions(Block):
    """How many questions of each subject a score rests on (null: all of them)."""

    fast: int | None = Field(
        20, ge=1, le=MAX_NUMBER, description="per subject, answered by every layer set"
    )
    full: int | None = Field(
        None, ge=1, le=MAX_NUMBER, description="per subject, answered by the good layer sets"
    )
    holdout: float = Field(0.0, ge=0.0, lt=1.0, description="share of each subject set aside")
    seed: int = Field(0, ge=0, le=MAX_SEED, description="seed of the order of the questions")
    fast_precision: Literal["model", "fp8"] = Field(
        "model",
        description="fp8: the fast questions run in eight bits (needs a GPU of compute capability "
        "8.9), and again in the model's precision for layer sets that go on",
    )

    @model_validator(mode="after")
    def _ordered(self) -> Questions:
        if self.full is not None and (self.fast is None or self.fast > self.full):
            fast = "all" if self.fast is None else self.fast
            raise ValueError(f"fast is {fast} and full is {self.full}; fast must not exceed full")
        return self


Fidelity = Literal["fast", "full"]
CostKind = Literal["layers", "kv_bytes", "latency"]
SamplerName = Literal["pattern-ga", "tpe", "nsgaii", "random", "greedy", "beam"]
PrunerName = Literal["racing", "halving", "none"]


class Explore(Block):
    """The search on the fast questions."""

    population: int = Field(40, ge=2, le=MAX_NUMBER, description="layer sets in a generation")
    generations: Count = Field(20, description="maximum number of generations")
    patience: Count = Field(
        6, description="generations without a better layer set after which it stops"
    )
    sampler: SamplerName = Field("pattern-ga", description="what proposes the layer sets")
    pruner: PrunerName = Field("racing", description="what stops layer sets early")


class Validate(Block):
    """Full evaluation of the best layer sets of the search."""

    top: Index = Field(20, description="how many of them")


class Refine(Block):
    """Local search around the best layer sets."""

    top: Index = Field(3, description="layer sets whose neighbours are evaluated")
    verify: Count = Field(5, description="neighbours per round that are evaluated in full")
    rounds: Index = Field(
        10, description="maximum number of rounds; it ends when a round finds nothing better"
    )


# A layer, or with several donors a text such as 7@b.
Label = Annotated[
    Annotated[Index, Tag("index")] | Annotated[str, Tag("named")],
    Discriminator(lambda value: "named" if isinstance(value, str) and AT in value else "index"),
]
Share = Annotated[float, Field(ge=0.0, le=1.0, allow_inf_nan=False)]


class Prior(Block):
    """What is known before the search."""

    single_layer_scores: list[Share] | None = Field(
        None, description="the score of each donor layer alone, 0 to 1; replaces the probe phase"
    )
    layer_sets: list[list[Label]] = Field(
        default_factory=list, description="good layer sets, in the first generation"
    )
