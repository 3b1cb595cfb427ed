"""A small finished study over a replayed landscape, and its report."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import optuna

from optlayers.config.study import StudyDefinition
from optlayers.layerset import LayerSet
from optlayers.results.view import StudyView
from optlayers.search import RacingPruner
from optlayers.storage.connect import open_study
from optlayers.testing import Landscape, ReplayEvaluator
from optlayers.workers.worker import Worker
from tests.helpers.replay import N_LAYERS, STUDY, definition, landscape, study_in, url_in


@dataclass(frozen=True)
class Finished:
    """A finished study: its folder, and its view."""

    folder: Path
    url: str
    file: Path
    definition: StudyDefinition
    study: optuna.Study
    view: StudyView


def changed(view: StudyView, **values: object) -> StudyView:
    """A copy with other values of some cached properties."""
    other = copy.copy(view)
    vars(other).update(values)
    return other


def with_donor() -> Landscape:
    """The landscape with the donor itself, which answers nine of ten questions."""
    known = landscape()
    donor = np.random.default_rng(8).random(known.order.n_full) < 0.9
    everything = LayerSet(tuple(range(N_LAYERS)))
    rows = np.concatenate([known.answers, donor[None]])
    return Landscape.of(N_LAYERS, known.order, [*known.index, everything], rows)


def make_in(folder: Path) -> Finished:
    """A replayed search that is done."""
    mine = definition()
    study = open_study(url_in(folder), mine, pruner=RacingPruner(top_k=2))
    Worker(mine, study, ReplayEvaluator(with_donor()), cohort=6).run()
    file = folder / "replayed.yaml"
    file.write_text(f"{STUDY}seed: 0\n")
    return Finished(folder, url_in(folder), file, mine, study, StudyView.of(mine, study_in(folder)))
