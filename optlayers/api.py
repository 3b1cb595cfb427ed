"""The Python API: search a study and load a hybrid without the command line.

    >>> import optlayers
    >>> study = optlayers.load_study("demo")
    >>> [donor.model for donor in study.donor_specs]
    ['demo/donor']

`import optlayers` loads nothing heavy: each name is imported when it is first used.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import optuna

from optlayers.config.study import StudyDefinition, load_study
from optlayers.layerset import LayerSet
from optlayers.results.leaderboard import LeaderboardRow
from optlayers.results.view import StudyView
from optlayers.search import pruner_for
from optlayers.storage.connect import open_study, storage_errors
from optlayers.storage.urls import DEFAULT_URL
from optlayers.workers.heldout import is_done


@dataclass(frozen=True)
class SearchResult:
    """What a search has found so far; `study` is the Optuna study."""

    definition: StudyDefinition
    study: optuna.Study

    @property
    def is_done(self) -> bool:
        """Whether all phases of the search are done."""
        return self.report().phase == "done"

    @property
    def leaderboard(self) -> list[LeaderboardRow]:
        """Every evaluated layer set, best first; scores are fractions from 0 to 1."""
        return self.report().leaderboard

    @property
    def best(self) -> LeaderboardRow | None:
        """The best layer set so far."""
        return self.report().best

    def report(self) -> StudyView:
        """Everything that `optlayers report` shows, as the study is now."""
        return StudyView.of(self.definition, self.study)


def search_study(
    study: str | Path | StudyDefinition,
    storage: str = DEFAULT_URL,
    *,
    device: str | None = None,
    dtype: str | None = None,
    max_minutes: float | None = None,
    say: Callable[[str], None] = lambda text: None,
) -> SearchResult:
    """Search a study with one worker in this process; call it again to continue.

    study: the name of a shipped study, a study file, or a definition. storage: a database URL;
    workers on other machines and GPUs join it with `optlayers worker`. device, dtype: as the
    options of `optlayers worker`. say: called with each line of the log. Raises `InputError` for
    bad input, `RunError` for a failure at run time.

        >>> from optlayers.config.fields import Explore, Questions, Refine, Validate
        >>> short = {"questions": Questions(fast=1, full=2),
        ...          "explore": Explore(population=2, generations=1),
        ...          "validation": Validate(top=1), "refine": Refine(top=0)}
        >>> demo = optlayers.load_study("demo").model_copy(update=short)
        >>> found = optlayers.search_study(demo, device="cpu")
        >>> found.is_done
        True
        >>> len(found.leaderboard) > 16    # every single layer, and sets of several
        True
        >>> found.report().references["donor"].score
        1.0
    """
    from optlayers.evaluation.evaluator import ModelEvaluator
    from optlayers.inference.device import pick_device, pick_dtype
    from optlayers.workers.worker import Worker

    definition = _definition(study)
    end = None if max_minutes is None else time.monotonic() + 60 * max_minutes
    opened = open_study(storage, definition, say=say)
    with storage_errors(storage):
        if not is_done(opened, definition):
            where = pick_device(device)
            evaluator = ModelEvaluator(definition, where, pick_dtype(dtype, where), say)
            opened.pruner = pruner_for(definition, evaluator.order.n_fast)
            left = None if end is None else max(0.0, end - time.monotonic())
            Worker(
                definition, opened, evaluator, device=str(where), max_seconds=left, say=say
            ).run()
    return SearchResult(definition, opened)


def load_hybrid(
    study: str | Path | StudyDefinition,
    layers: str | Iterable[int | str] | LayerSet,
    *,
    device: str | None = None,
    dtype: str | None = None,
) -> Any:
    """The hybrid of a layer set as a transformers model in evaluation mode.

    layers: `"3,7"`, `[3, 7]`, `""` (the base) or `"all"` (all layers of the donor); with several
    donors `"3@a,7@b"`, `["3@a", "7@b"]` or `"all@b"`. device, dtype: by default a GPU in bfloat16
    if there is one, else the CPU in float32. Its tokenizer is that of `load_tokenizer`. Raises
    `InputError` for layers or models that do not fit.

        >>> model = optlayers.load_hybrid("demo", [0, 10, 11, 15], device="cpu")
        >>> type(model).__name__, model.config.donor_layers
        ('HybridForCausalLM', [0, 10, 11, 15])
        >>> tokenizer = optlayers.load_tokenizer("demo")
        >>> tokens = tokenizer("What is the capital of Iceland?", return_tensors="pt")
        >>> tuple(model(**tokens).logits.shape)[-1] == model.config.vocab_size
        True
    """
    from optlayers.checkpoints.assembly import assemble
    from optlayers.checkpoints.parents import open_for
    from optlayers.checkpoints.tokenizer import special_tokens, tokenizer_folder
    from optlayers.inference.device import pick_device, pick_dtype

    definition = _definition(study)
    if isinstance(layers, LayerSet):
        layers = definition.graft.space().text(layers)
    text = layers if isinstance(layers, str) else ",".join(map(str, layers))
    parents, chosen = open_for(definition, text)
    where = pick_device(device)
    kind = pick_dtype(dtype, where)
    trust = definition.trust_remote_code
    tokens = special_tokens(parents, tokenizer_folder(definition), trust)
    return assemble(parents, chosen, kind, definition.graft, tokens).to(where)


def load_tokenizer(study: str | Path | StudyDefinition) -> Any:
    """The tokenizer of a study: the one that it names, or else the donor's.

    >>> len(optlayers.load_tokenizer("demo"))
    2048
    """
    from optlayers.checkpoints.tokenizer import load_tokenizer as load

    return load(_definition(study))


def _definition(study: str | Path | StudyDefinition) -> StudyDefinition:
    return study if isinstance(study, StudyDefinition) else load_study(str(study))
