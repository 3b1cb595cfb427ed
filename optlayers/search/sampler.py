"""PatternGASampler: the genetic search as an Optuna sampler."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Collection, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from optuna.distributions import BaseDistribution
from optuna.samplers import BaseSampler, RandomSampler
from optuna.study import Study, StudyDirection
from optuna.trial import FrozenTrial, TrialState

from optlayers.errors import InputError
from optlayers.layerset import ONE, Donors, LayerSet, LayerSpace
from optlayers.search.genetic import GeneticSearch
from optlayers.search.history import History, history_from, individuals_from, is_explored
from optlayers.search.individual import Individual
from optlayers.search.patience import explored_sets, stagnates
from optlayers.search.proposal import Goal, Phase, Proposal
from optlayers.trials import keys
from optlayers.trials.ranking import given_up
from optlayers.trials.record import Record, RecordReader, search_space

# Individuals used for a proposal: the best and an even selection of the rest, so that its cost is
# bounded.
_MOST = 1500

# Held while a set is drawn; of the module, so that samplers can be pickled.
_drawing = threading.Lock()


class PatternGASampler(BaseSampler):
    """A genetic sampler of layer sets with pattern-guided mutation and a surrogate.

        sampler = PatternGASampler(n_layers=32, max_layers=4, seed=0)
        study = optuna.create_study(direction="maximize", sampler=sampler)
        trial = study.ask(sampler.search_space())
        layers = LayerSet.from_params(trial.params)

    or, in an objective, suggest `layer_00` ... as categoricals of `["base", "donor"]`; parameters
    of other names are sampled at random. Every proposal has `min_layers` to `max_layers` donor
    layers and is neither evaluated nor being evaluated, as long as such sets remain; after that
    the best known set is proposed again.

    COMPLETE and PRUNED trials are both individuals. Parents are chosen by non-dominated sorting on
    (score, fewer layers), as in NSGA-II (Deb et al. 2002). A proposal depends only on `seed`, the
    trial number and the history; workers need different seeds. Threads that share a sampler never
    draw one set twice; plain Optuna processes that draw at the same moment may (`optlayers worker`
    claims a set first).

    known_sets, single_layer_scores (float [n_layers], 0 or more, larger for better): seed the
    first generation; without scores, those of finished one-layer trials are used once every layer
    has one. donors: the names of the donors, if there are several; each layer is then suggested
    among `base` and these. patience: after so many generations without a better score,
    `study.optimize` ends (with ask and tell, see `out_of_patience`). Raises `InputError` for
    settings out of range, and `ValueError` in a study of several objectives.
    """

    ends_itself = False

    def __init__(
        self,
        *,
        n_layers: int,
        min_layers: int = 1,
        max_layers: int = 4,
        seed: int | None = None,
        population_size: int = 40,
        crossover_prob: float = 0.8,
        mutation_prob: float = 0.5,
        tournament_size: int = 3,
        n_elites: int = 3,
        single_layer_scores: Sequence[float] | None = None,
        known_sets: Sequence[LayerSet | Sequence[int]] = (),
        guide_prob: float = 0.3,
        patience: int | None = None,
        donors: Donors = ONE,
    ) -> None:
        self._space = LayerSpace(n_layers, min_layers, max_layers, donors)
        n_choices = self._space.n_choices
        if single_layer_scores is not None and len(single_layer_scores) != n_choices:
            raise InputError(
                f"single_layer_scores: {len(single_layer_scores)} scores for {n_choices} layers; "
                "give one score for each layer"
            )
        if patience is not None and patience < 1:
            raise InputError(f"patience is {patience}; expected 1 or more, or None")
        self._patience = patience
        self._search = GeneticSearch(
            space=self._space,
            population_size=population_size,
            crossover_prob=crossover_prob,
            mutation_prob=mutation_prob,
            tournament_size=tournament_size,
            n_elites=n_elites,
            known_sets=[s if isinstance(s, LayerSet) else LayerSet(tuple(s)) for s in known_sets],
            guide_prob=guide_prob,
        )
        self._scores = None if single_layer_scores is None else list(single_layer_scores)
        self._seed = _fresh_seed() if seed is None else seed
        # Optuna's samplers take 32-bit seeds.
        self._independent = RandomSampler(seed=None if seed is None else seed % 2**32)
        self._reader = RecordReader()
        # By study: what trials of this process hold whose parameters may not be stored yet.
        self._drawn: dict[str, dict[int, LayerSet]] = {}

    @property
    def space(self) -> LayerSpace:
        """The layer sets that may be proposed."""
        return self._space

    def search_space(self) -> dict[str, BaseDistribution]:
        """The parameters of one layer set, for `study.ask`."""
        return search_space(self._space)

    def propose(self, study: Study, k: int) -> list[Proposal]:
        """At most k distinct proposals for explore trials, without creating any trial.

        Fewer only where the space is exhausted. The same study and k give the same proposals.
        """
        self._raise_error_if_multi_objective(study)
        trials = study.get_trials(deepcopy=False)
        return self.propose_from(
            self._reader.read(trials),
            k,
            maximise=study.direction != StudyDirection.MINIMIZE,
            number=len(trials),
        )

    def propose_from(
        self,
        records: Sequence[Record],
        k: int,
        *,
        single_layer_scores: Sequence[float] | None = None,
        maximise: bool = True,
        number: int | None = None,
        pausing: bool = False,
    ) -> list[Proposal]:
        """As `propose`, from records (by trial number); no study is needed.

        With `pausing`, sets go one rung at a time, and one that has paused may be proposed again.
        `number` is that of the next trial (without: one more than the last record's); it and
        the seed make the random generator.
        """
        if number is None:
            number = records[-1].number + 1 if records else 0
        history = history_from(
            records,
            space=self._space,
            population_size=self._search.population_size,
            maximise=maximise,
            most=_MOST,
        )
        individuals = history.individuals
        others = [r for r in records if not r.is_evaluated]
        running = [r for r in others if r.is_claimed]
        claimed = {r.layers for r in running if is_explored(r) and r.layers in self._space}
        # What ended without a finite score has none to learn from, and would have none again.
        ended = {r.layers for r in others if r.state in (TrialState.COMPLETE, TrialState.PRUNED)}
        excluded = {r.layers for r in running} | given_up(others) | ended
        paused = _paused(records, history, excluded) if pausing else {}
        scores = single_layer_scores if single_layer_scores is not None else self._scores
        if scores is None:
            scores = self._probed(individuals)
        found = self._search.propose(
            individuals,
            claimed,
            np.random.default_rng([self._seed, number]),
            k,
            excluded=excluded,
            single_layer_scores=scores,
            known=history.best.keys(),
            explored=history.explored,
            paused=paused,
        )
        goal = Goal.step if pausing else Goal.race
        return [
            Proposal(
                layers, Phase.explore, goal, generation=generation, start=paused.get(layers, 0)
            )
            for layers, generation in found
        ]

    def infer_relative_search_space(
        self, study: Study, trial: FrozenTrial
    ) -> dict[str, BaseDistribution]:
        """All layers of the model: they are always drawn together, as one layer set."""
        return self.search_space()

    def sample_relative(
        self, study: Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        """One layer set as parameters; parameters of other names are sampled at random."""
        self._raise_error_if_multi_objective(study)
        mine = self.search_space()
        params: dict[str, Any] = {
            name: self._independent.sample_independent(study, trial, name, distribution)
            for name, distribution in search_space.items()
            if mine.get(name) != distribution
        }
        if not any(name in mine and name not in params for name in search_space):
            return params
        layers = self._draw(study, trial)
        chosen = self._space.params(layers)
        params.update({n: v for n, v in chosen.items() if n in search_space and n not in params})
        return params

    def _draw(self, study: Study, trial: FrozenTrial) -> LayerSet:
        """A set for this trial that no other has, or the best known where none is left.

        Optuna stores parameters one by one, so what other threads of this process have drawn
        counts from memory; other processes are seen once their parameters are stored.
        """
        maximise = study.direction != StudyDirection.MINIMIZE
        with _drawing:
            drawn = self._drawn.setdefault(study.study_name, {})
            others = [t for t in study.get_trials(deepcopy=False) if t.number != trial.number]
            records = [
                replace(record, layers=drawn[record.number])
                if record.is_claimed and record.number in drawn
                else record
                for record in self._reader.read(others)
            ]
            known = {record.number for record in records}
            records += [
                Record(t.number, t.state, drawn[t.number])
                for t in others
                if t.number in drawn and t.number not in known and not t.state.is_finished()
            ]
            records.sort(key=lambda record: record.number)
            found = self.propose_from(records, 1, maximise=maximise, number=trial.number)
            layers = (
                found[0].layers if found else self._best_known(records, trial, maximise=maximise)
            )
            running = {t.number for t in others if not t.state.is_finished()}
            self._drawn[study.study_name] = {
                number: held for number, held in drawn.items() if number in running
            } | {trial.number: layers}
        return layers

    def sample_independent(
        self,
        study: Study,
        trial: FrozenTrial,
        param_name: str,
        param_distribution: BaseDistribution,
    ) -> Any:
        """A random value, for parameters that are not layers."""
        self._raise_error_if_multi_objective(study)
        return self._independent.sample_independent(study, trial, param_name, param_distribution)

    def out_of_patience(self, study: Study) -> bool:
        """Whether the last `patience` generations found nothing better (False if None)."""
        if self._patience is None:
            return False
        records = self._reader.read(study.get_trials(deepcopy=False))
        return stagnates(
            records,
            explored_sets(records, self._space),
            space=self._space,
            population_size=self._search.population_size,
            patience=self._patience,
            maximise=study.direction != StudyDirection.MINIMIZE,
        )

    def after_trial(
        self, study: Study, trial: FrozenTrial, state: TrialState, values: Sequence[float] | None
    ) -> None:
        """Stop `study.optimize` when patience has run out."""
        if self.out_of_patience(study):
            # Outside `optimize` there is nothing to stop.
            with contextlib.suppress(RuntimeError):
                study.stop()

    def reseed_rng(self) -> None:
        """Draw a new seed, as forked workers must."""
        self._seed = _fresh_seed()
        self._independent.reseed_rng()

    def _individuals(self, records: Sequence[Record], *, maximise: bool) -> list[Individual]:
        return individuals_from(
            records,
            space=self._space,
            population_size=self._search.population_size,
            maximise=maximise,
        )

    def _probed(self, individuals: Sequence[Individual]) -> list[float] | None:
        """Scores of one-layer sets from the history, or None while a layer lacks one."""
        singles = {i.layers.indices[0]: i.fitness for i in individuals if len(i.layers) == 1}
        if len(singles) < self._space.n_choices:
            return None
        offset = min(0.0, min(singles.values()))
        return [singles[layer] - offset for layer in range(self._space.n_choices)]

    def _best_known(
        self, records: Sequence[Record], trial: FrozenTrial, *, maximise: bool
    ) -> LayerSet:
        individuals = self._individuals(records, maximise=maximise)
        if individuals:
            return max(individuals, key=lambda i: (i.fitness, -len(i.layers))).layers
        # Everything is being evaluated or has failed, and nothing is known: any set will do.
        rng = np.random.default_rng([self._seed, trial.number])
        return self._space.random(rng, self._space.random_size(rng))


def _paused(
    records: Sequence[Record], history: History, busy: Collection[LayerSet]
) -> dict[LayerSet, int]:
    """The individuals that stopped without being beaten, and the questions they have answered."""
    out = {r.layers.indices for r in records if r.reason == keys.REASON_BEATEN}
    out.update(layers.indices for layers in busy)
    found = {}
    for layers in [i.layers for i in history.individuals if i.layers.indices not in out]:
        record = history.best[layers.indices]
        if record.questions and not record.is_full:
            found[layers] = record.questions
    return found


def _fresh_seed() -> int:
    entropy = np.random.SeedSequence().entropy
    return int(entropy) if isinstance(entropy, int) else 0
