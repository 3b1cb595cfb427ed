"""Builds the sampler and the pruner that a study file names."""

from __future__ import annotations

from optuna.pruners import BasePruner, NopPruner, SuccessiveHalvingPruner
from optuna.samplers import NSGAIISampler, TPESampler

from optlayers.config.study import StudyDefinition
from optlayers.search.baselines import BeamSearch, LayerSetSampler, OptunaSearch, RandomSearch
from optlayers.search.pruner import RacingPruner
from optlayers.search.sampler import PatternGASampler

BEAM_WIDTH = 3
# The race is for first place only; its error rate is split over the rungs.
RACE_TOP_K, RACE_ALPHA = 1, 0.1


def worker_seed(definition: StudyDefinition, index: int) -> int:
    """The seed of the sampler of worker number `index` of a study."""
    return definition.seed * 10_007 + index


def sampler_for(
    definition: StudyDefinition, n_layers: int, seed: int | None = None
) -> LayerSetSampler:
    """The sampler of a study; `seed` (default: the definition's) must differ by worker."""
    seed = definition.seed if seed is None else seed
    name = definition.explore.sampler
    if name == "pattern-ga":
        return PatternGASampler(
            n_layers=n_layers,
            min_layers=definition.layers.min,
            max_layers=definition.layers.max,
            seed=seed,
            population_size=definition.explore.population,
            single_layer_scores=definition.prior.single_layer_scores,
            known_sets=definition.prior_layer_sets,
            donors=definition.donor_names,
        )
    space = definition.space(n_layers)
    if name in ("greedy", "beam"):
        return BeamSearch(space=space, width=1 if name == "greedy" else BEAM_WIDTH)
    if name == "random":
        return RandomSearch(space=space, seed=seed)
    # Optuna's samplers take 32-bit seeds. A cohort is asked for before its first result is known.
    own = seed % 2**32
    sampler = TPESampler(seed=own, constant_liar=True) if name == "tpe" else NSGAIISampler(seed=own)
    return OptunaSearch(space=space, sampler=sampler, seed=seed)


def pruner_for(definition: StudyDefinition, n_fast: int = 1) -> BasePruner:
    """The pruner of a study: racing, successive halving from `n_fast` questions on, or none."""
    if definition.explore.pruner == "racing":
        return RacingPruner(top_k=RACE_TOP_K, alpha=RACE_ALPHA)
    if definition.explore.pruner == "halving":
        # Rungs double, so half of the trials are promoted (Li et al. 2020).
        return SuccessiveHalvingPruner(min_resource=max(1, n_fast), reduction_factor=2)
    return NopPruner()
