"""All figures of a report, in the order in which one reads them."""

from __future__ import annotations

from collections.abc import Sequence

from optlayers.report import comparisons, effort, layers, scores
from optlayers.report.baselines import Baseline
from optlayers.report.figure import Figure
from optlayers.results.view import StudyView


def figures(view: StudyView, baselines: Sequence[Baseline] = ()) -> list[Figure]:
    """Every figure that the study has data for."""
    found = (
        scores.best_sets(view),
        scores.score_by_size(view),
        layers.layer_effects(view),
        layers.pair_synergy(view),
        layers.evolution(view),
        effort.score_by_cost(view, baselines),
        effort.funnel_chart(view),
        comparisons.fast_against_full(view),
        comparisons.by_subject(view),
    )
    return [figure for figure in found if figure is not None]
