"""Search over layer sets: an Optuna sampler, a pruner, and the phases of a study.

The sampler and the pruner work without the rest of optlayers, on any choice of a few of n parts
that is scored by right and wrong answers:

    import optuna
    from optlayers.search import LayerSet, PatternGASampler, RacingPruner

    sampler = PatternGASampler(n_layers=32, min_layers=1, max_layers=4, seed=0)
    study = optuna.create_study(direction="maximize", sampler=sampler, pruner=RacingPruner())
    for _ in range(200):
        trial = study.ask(sampler.search_space())
        layers = LayerSet.from_params(trial.params)
        for questions in (500, 1000, 2000):
            trial.report(score(layers, questions), questions)   # the share of right answers
            if trial.should_prune():
                study.tell(trial, state=optuna.trial.TrialState.PRUNED)
                break
        else:
            study.tell(trial, score(layers, 2000))

or `study.optimize(objective)` with `trial.suggest_categorical("layer_07", ["base", "donor"])`
for every layer. `plan` and `advance` decide a whole study (probe, explore, validate, refine).
"""

from __future__ import annotations

from optlayers.layerset import LayerSet, LayerSpace
from optlayers.search.baselines import LayerSetSampler
from optlayers.search.effects import Effect, Explanation, explain
from optlayers.search.factory import pruner_for, sampler_for
from optlayers.search.planner import Plan, phase_of, plan, single_layer_scores
from optlayers.search.proposal import Goal, Phase, Proposal
from optlayers.search.pruner import RacingPruner
from optlayers.search.rungs import Outcome, Rungs, advance, conclude, rungs
from optlayers.search.sampler import PatternGASampler
from optlayers.trials.answers import as_stored, decode_answers, encode_answers
from optlayers.trials.ranking import best_by_layers
from optlayers.trials.record import Record, RecordReader, read_record, read_records, search_space
from optlayers.trials.statistics import StratifiedScore, paired_difference

__all__ = [
    "Effect",
    "Explanation",
    "Goal",
    "LayerSet",
    "LayerSetSampler",
    "LayerSpace",
    "Outcome",
    "PatternGASampler",
    "Phase",
    "Plan",
    "Proposal",
    "RacingPruner",
    "Record",
    "RecordReader",
    "Rungs",
    "StratifiedScore",
    "advance",
    "as_stored",
    "best_by_layers",
    "conclude",
    "decode_answers",
    "encode_answers",
    "explain",
    "paired_difference",
    "phase_of",
    "plan",
    "pruner_for",
    "read_record",
    "read_records",
    "rungs",
    "sampler_for",
    "search_space",
    "single_layer_scores",
]
