"""`plan`: what a study evaluates next, as a pure function of its trials."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

from optlayers.config.study import StudyDefinition
from optlayers.layerset import LayerSet
from optlayers.search.baselines import LayerSetSampler
from optlayers.search.factory import sampler_for
from optlayers.search.history import fitness_from, is_explored, is_search
from optlayers.search.patience import explored_sets, stagnates
from optlayers.search.proposal import Goal, Phase, Proposal
from optlayers.trials.ranking import best_by_layers, given_up
from optlayers.trials.record import Record

__all__ = ["Goal", "Phase", "Plan", "Proposal", "phase_of", "plan", "single_layer_scores"]


# Layer sets that a worker evaluates together: few enough that each cohort learns from the last
# (benchmarks/search/search.py), enough to share prefixes of layers.
COHORT = 8
# Phases that list all their sets in advance learn nothing between cohorts: these are so many times
# as large.
LISTED = 4
_RECENT = 60  # a worker of one of the last so many trials counts as active


@dataclass(frozen=True)
class Plan:
    """The phase of a study and the layer sets to claim.

    `waiting`: nothing can be proposed until trials of other workers finish.
    """

    phase: Phase
    proposals: tuple[Proposal, ...] = ()
    waiting: bool = False

    def share(
        self, worker: str, others: Collection[str], index: int, cohort: int = COHORT
    ) -> list[Proposal]:
        """What one worker should claim while `others` work on the study too.

        In explore that is everything, since a plan is made for one worker. In the other phases all
        workers see one list; each starts in a different part, so that two rarely claim the same
        set. A single worker leaves half to one that may join at this moment; `index` distinguishes
        workers that start together.
        """
        everything = list(self.proposals)
        if self.phase == Phase.explore:
            return everything
        workers = sorted({worker, *others})
        place = workers.index(worker) if len(workers) > 1 else index % 2
        part = math.ceil(len(everything) / max(2, len(workers)))
        start = part * place
        return (everything[start:] + everything[:start])[: min(part, LISTED * cohort)]


def recent_workers(records: Sequence[Record]) -> set[str]:
    """The workers of the last trials."""
    return {record.worker for record in records[-_RECENT:] if record.worker}


def single_layer_scores(
    records: Iterable[Record], definition: StudyDefinition, n_layers: int
) -> list[float] | None:
    """Scores of the single layers, float [choices], from the prior or else the probe.

    None if none is known; a layer whose probe failed for good gets the mean.
    """
    if definition.prior.single_layer_scores is not None:
        return list(definition.prior.single_layer_scores)
    # Scores at the first rung, so that all layers are compared on the same questions.
    known: dict[int, float] = {}
    single = [r for r in records if len(r.layers.indices) == 1 and r.is_evaluated]
    for record in sorted(single, key=lambda r: r.number):
        if record.first_score is not None:
            known.setdefault(record.layers.indices[0], record.first_score)
    if not known:
        return None
    mean = sum(known.values()) / len(known)
    return [known.get(i, mean) for i in range(definition.space(n_layers).n_choices)]


def plan(
    definition: StudyDefinition,
    n_layers: int,
    records: Iterable[Record],
    sampler: LayerSetSampler,
    k: int,
) -> Plan:
    """What to evaluate next in a study of these trials (in any order), and its phase.

    At most k proposals in explore; in the other phases all sets that are left. Nothing is proposed
    that is evaluated as far already, being evaluated, or given up. Phases follow each other where
    the next decision needs all of the last one; inside probe and explore no worker waits for
    another. The same trials give the same plan.
    """
    planner = _Planner(definition, n_layers, sorted(records, key=lambda r: r.number), sampler, k)
    for step in (planner.probe, planner.explore, planner.validate, planner.refine):
        found = step()
        if found is not None:
            return found
    return Plan(Phase.done)


def phase_of(definition: StudyDefinition, n_layers: int, records: Iterable[Record]) -> Phase:
    """The phase of a study of these trials."""
    # Optuna's own samplers would first be told the whole history, which changes no phase.
    light = "random" if definition.explore.sampler in ("tpe", "nsgaii") else None
    sampler = sampler_for(definition.exploring(light, None), n_layers, seed=definition.seed)
    return plan(definition, n_layers, records, sampler, 1).phase


class _Planner:
    """One call of `plan`; each phase returns its plan, or None if it is over."""

    def __init__(
        self,
        definition: StudyDefinition,
        n_layers: int,
        records: Sequence[Record],
        sampler: LayerSetSampler,
        k: int,
    ) -> None:
        self.definition = definition
        self.n_layers = n_layers
        self.records = records
        self.sampler = sampler
        self.k = k
        self.space = definition.space(n_layers)
        # Only PatternGASampler resumes paused sets.
        self.pausing = (definition.explore.sampler, definition.explore.pruner) == (
            "pattern-ga",
            "racing",
        )
        # Only these are looked at again; a study may have ten thousand records.
        self.single: list[Record] = []
        self.others: list[Record] = []
        for record in records:
            if not record.is_evaluated:
                self.others.append(record)
            elif len(record.layers.indices) == 1:
                self.single.append(record)
        self.claimed = {r.layers for r in self.others if r.is_claimed}
        self.dropped = given_up(self.others)

    @cached_property
    def best(self) -> dict[LayerSet, Record]:
        """The record with most questions of each evaluated set."""
        return best_by_layers(self.records)

    @cached_property
    def full(self) -> set[LayerSet]:
        """The sets evaluated on all questions."""
        return {layers for layers, record in self.best.items() if record.is_full}

    def probe(self) -> Plan | None:
        """Every single layer on few questions, whatever the budget: the scores weight proposals."""
        if self.definition.prior.single_layer_scores is not None:
            return None
        known = {r.layers for r in self.single}
        wanted = [LayerSet.of(layer) for layer in range(self.space.n_choices)]
        return self._all_of(wanted, known, Phase.probe, Goal.step if self.pausing else Goal.fast)

    def explore(self) -> Plan | None:
        """The sampler's proposals, until the trials, the patience or the space is exhausted."""
        explore = self.definition.explore
        explored = explored_sets(self.records, self.space)
        running = {
            r.layers.indices
            for r in self.others
            if r.is_claimed and is_explored(r) and r.layers in self.space
        } - explored.keys()
        room = explore.population * explore.generations - len(explored) - len(running)
        found: list[Proposal] = []
        stagnated = not self.sampler.ends_itself and stagnates(
            self.records,
            explored,
            space=self.space,
            population_size=explore.population,
            patience=explore.patience,
        )
        if room > 0 and not stagnated and not self._is_exhausted():
            found = self.sampler.propose_from(
                self.records,
                min(self.k, room),
                single_layer_scores=single_layer_scores(
                    self.single, self.definition, self.n_layers
                ),
                pausing=self.pausing,
            )
        if found:
            return Plan(Phase.explore, tuple(found))
        # The best of the phase are known only when all its trials have finished.
        return Plan(Phase.explore, waiting=True) if running else None

    def _is_exhausted(self) -> bool:
        """Whether every set of the budget was evaluated at least in part."""
        if len(self.records) < self.space.size:
            return False
        seen = {r.layers for r in self.records if r.is_evaluated} | self.claimed | self.dropped
        return sum(1 for layers in seen if layers in self.space) >= self.space.size

    def validate(self) -> Plan | None:
        """Full evaluations of the best sets.

        They are chosen from trials of probe and explore only, so that the list does not change
        while its own trials finish.
        """
        search = [r for r in self.records if is_search(r)]
        found = [layers for layers in best_by_layers(search) if self._is_candidate(layers)]
        chosen = _fittest(found, self._estimates(search), self.definition.validation.top)
        return self._all_of(chosen, self.full, Phase.validate, Goal.full)

    def refine(self) -> Plan | None:
        """Neighbours of the best sets, round by round, until a round finds nothing better."""
        refine = self.definition.refine
        for number in range(1, refine.rounds + 1):
            known = self._full_before(number)
            near = sorted(
                {
                    layers
                    for centre in _best_scores(known, refine.top)
                    for layers in self.space.neighbours(centre.layers)
                }
            )
            found = self._all_of(near, self.best, Phase.refine, Goal.fast, number)
            if found is not None:
                return found
            # Without the full evaluations of this round: the choice must not change as they
            # finish.
            before = [
                r for r in self.records if not (r.goal == Goal.full and _is_refined(r, number))
            ]
            partial = best_by_layers(before)
            unverified = [
                layers
                for layers in near
                if layers in partial and not partial[layers].is_full and self._is_candidate(layers)
            ]
            chosen = _fittest(unverified, self._estimates(before), refine.verify)
            found = self._all_of(chosen, self.full, Phase.refine, Goal.full, number)
            if found is not None:
                return found
            if _top_score(self._full_before(number + 1)) <= _top_score(known):
                return None
        return None

    def _full_before(self, number: int) -> list[Record]:
        """The fully evaluated candidates as they were when round `number` began."""
        before = best_by_layers(r for r in self.records if not _is_refined(r, number))
        return [r for layers, r in before.items() if r.is_full and self._is_candidate(layers)]

    def _is_candidate(self, layers: LayerSet) -> bool:
        return layers in self.space and layers not in self.dropped

    def _all_of(
        self,
        wanted: Sequence[LayerSet],
        finished: Collection[LayerSet],
        phase: Phase,
        goal: Goal,
        number: int | None = None,
    ) -> Plan | None:
        """A plan for the wanted sets that are not finished or given up; None if there are none."""
        missing = [s for s in wanted if s not in finished and s not in self.dropped]
        if not missing:
            return None
        free = [s for s in missing if s not in self.claimed]
        proposals = tuple(Proposal(s, phase, goal, round=number) for s in free)
        return Plan(phase, proposals, waiting=not proposals)

    def _estimates(self, records: Iterable[Record]) -> dict[tuple[int, ...], float]:
        """The fitness of each set of the budget, comparable across numbers of questions."""
        size = self.definition.explore.population
        return fitness_from(records, space=self.space, population_size=size)


def _is_refined(record: Record, number: int) -> bool:
    """Whether a record is of round `number` of refine, or of a later one."""
    return record.phase == Phase.refine and record.round is not None and record.round >= number


def _top_score(records: Iterable[Record]) -> float:
    return max((r.score for r in records if r.score is not None), default=float("-inf"))


def _fittest(
    sets: Iterable[LayerSet], worth: Mapping[tuple[int, ...], float], count: int
) -> list[LayerSet]:
    """The best of the sets; ties go to fewer layers."""
    return sorted(sets, key=lambda s: (-worth[s.indices], len(s), s))[:count]


def _best_scores(records: Sequence[Record], count: int) -> list[Record]:
    """The best records of full evaluations; ties go to fewer layers."""
    return sorted(records, key=lambda r: (-(r.score or 0.0), len(r.layers), r.layers))[:count]
