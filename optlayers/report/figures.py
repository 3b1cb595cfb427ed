"""All figures of a report, in the order in which one reads them."""

from __future__ import annotations

from optlayers.report import comparisons, effort, layers, scores
from optlayers.report.data import Report
from optlayers.report.figure import Figure

MAKERS = (
    scores.best_sets,
    scores.score_by_size,
    layers.layer_effects,
    layers.pair_synergy,
    layers.evolution,
    effort.score_by_cost,
    effort.funnel_chart,
    comparisons.fast_against_full,
    comparisons.by_subject,
)


def figures(report: Report) -> list[Figure]:
    """Every figure that the study has data for."""
    return [figure for make in MAKERS if (figure := make(report)) is not None]
