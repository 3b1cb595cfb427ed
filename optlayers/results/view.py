"""StudyView: a study at one moment, and everything that its trials say."""

from __future__ import annotations

import dataclasses
import datetime
from collections.abc import Sequence
from functools import cached_property
from typing import Any

import numpy as np
import optuna
from optuna.trial import FrozenTrial, TrialState

from optlayers.config.study import StudyDefinition
from optlayers.layerset import BASE, Donors, LayerSet
from optlayers.results.answers import (
    FastAndFull,
    Reference,
    SubjectScore,
    reference_answers,
    scorer_of,
    subject_scores,
)
from optlayers.results.comparisons import compare
from optlayers.results.course import Course, course
from optlayers.results.heldout import HeldOut, held_out_scores
from optlayers.results.leaderboard import LeaderboardRow, best_of_size, front, leaderboard
from optlayers.results.patterns import Effects, Generation, effects, generations
from optlayers.results.progress import (
    Failure,
    Funnel,
    Savings,
    failures,
    funnel,
    savings,
)
from optlayers.search import Phase, phase_of
from optlayers.trials import keys
from optlayers.trials.cost import Cost, cost_of
from optlayers.trials.ranking import best_by_layers
from optlayers.trials.record import Record, read_records
from optlayers.trials.statistics import StratifiedScore, spearman
from optlayers.trials.worker_state import WorkerState, read_workers

# Rows that `StudyView.compared` compares at least, where there are so many.
COMPARED = 200

_STATES = {
    TrialState.COMPLETE: "complete",
    TrialState.PRUNED: "pruned",
    TrialState.RUNNING: "running",
    TrialState.WAITING: "waiting",
    TrialState.FAIL: "failed",
}


class StudyView:
    """A study at one moment; each property is computed at most once.

    definition: the study's. trials, attrs: the trials and user attributes as they were at `made`.
    """

    def __init__(
        self, definition: StudyDefinition, trials: Sequence[FrozenTrial], attrs: dict[str, Any]
    ) -> None:
        self.definition = definition
        self.trials = trials
        self.attrs = attrs
        self.made = datetime.datetime.now().astimezone()
        self.n_layers = int(attrs.get(keys.N_LAYERS, 0))
        self.space = definition.space(self.n_layers or None)
        self.donors: Donors = self.space.donors
        self.subject_names = [str(name) for name in attrs.get(keys.SUBJECTS, [])]
        self.n_fast = int(attrs.get(keys.N_FAST, 0))
        self.n_full = int(attrs.get(keys.N_FULL, 0))

    @classmethod
    def of(cls, definition: StudyDefinition, study: optuna.Study) -> StudyView:
        """The study as it is now; the only place that reads the storage."""
        return cls(definition, study.get_trials(deepcopy=False), study.user_attrs)

    # ------------------------------------------------------------------ trials and scores

    @cached_property
    def records(self) -> list[Record]:
        """The trials as records, by trial number."""
        return read_records(self.trials)

    @cached_property
    def cost(self) -> Cost:
        """What a layer set costs in this study."""
        return cost_of(self.definition, self.attrs)

    @cached_property
    def leaderboard(self) -> list[LeaderboardRow]:
        """Every evaluated layer set, best first."""
        return leaderboard(self.definition, self.records, self.cost)

    @property
    def best(self) -> LeaderboardRow | None:
        """The first of the leaderboard."""
        return self.leaderboard[0] if self.leaderboard else None

    @cached_property
    def best_of_size(self) -> list[LeaderboardRow]:
        """The best layer set of each number of layers."""
        return best_of_size(self.leaderboard)

    @cached_property
    def compared(self) -> list[LeaderboardRow]:
        """The leaderboard, with comparisons of the rows in full and of the first `COMPARED`."""
        full = sum(row.fidelity == "full" for row in self.leaderboard)
        most = max(full, COMPARED)
        return self.compare(self.leaderboard[:most]) + self.leaderboard[most:]

    @cached_property
    def front(self) -> list[LeaderboardRow]:
        """The Pareto front of score and cost, cheap layer sets first."""
        return front(self.leaderboard)

    def compare(self, rows: Sequence[LeaderboardRow]) -> list[LeaderboardRow]:
        """These rows with their comparisons; `to_next` is to the next of them."""
        found = compare([row.record for row in rows], self.attrs)
        return [dataclasses.replace(r, comparison=c) for r, c in zip(rows, found, strict=True)]

    @cached_property
    def held_out(self) -> list[HeldOut]:
        """Scores on held-out questions: the best sets by rank, the base and the donors."""
        return held_out_scores(self.definition, self.attrs, self.records)

    @cached_property
    def scorer(self) -> StratifiedScore | None:
        """How answers are scored; None before the first worker."""
        return scorer_of(self.attrs)

    @cached_property
    def references(self) -> dict[str, Reference]:
        """The base and the donors, by name, as far as they have answered the questions."""
        found = {}
        for name in (BASE, *self.donors):
            answers = reference_answers(self.attrs, name)
            if answers is not None and self.scorer is not None:
                interval = self.scorer.interval(answers)
                found[name] = Reference(name, *interval, len(answers), answers)
        return found

    @cached_property
    def subjects(self) -> list[SubjectScore]:
        """Scores of the best layer set, the base and the first donor in each subject."""
        answers = self.best.record.answers if self.best else None
        if answers is None or self.scorer is None or not self.subject_names:
            return []
        base, donor = (reference_answers(self.attrs, name) for name in (BASE, self.donors[0]))
        return subject_scores(self.subject_names, self.scorer, answers, base, donor)

    @cached_property
    def fast_and_full(self) -> list[FastAndFull]:
        """Fast and full score of each layer set that answered all questions, by trial number.

        Computed from the answers: a trial that takes a set further reports later questions only.
        """
        if self.scorer is None or not self.n_fast:
            return []
        return [
            FastAndFull(
                self.space.labels(r.layers), self.scorer.score(r.answers[: self.n_fast]), r.score
            )
            for r in sorted(best_by_layers(self.records).values(), key=lambda r: r.number)
            if r.is_full and r.answers is not None and r.score is not None
        ]

    @cached_property
    def rank_correlation(self) -> float | None:
        """Spearman's rank correlation of fast and full scores, where it is defined."""
        pairs = self.fast_and_full
        rho = spearman(np.array([p.fast for p in pairs]), np.array([p.full for p in pairs]))
        return None if np.isnan(rho) else float(rho)

    # ------------------------------------------------------------------ progress and cost

    @cached_property
    def phase(self) -> str:
        """The phase of the search: `starting`, one of `Phase`, at last `done`."""
        if not self.n_layers:
            return "starting"
        return phase_of(self.definition, self.n_layers, self.records).value

    @cached_property
    def trial_counts(self) -> dict[str, int]:
        """Number of trials in each state, by its name."""
        counts = dict.fromkeys(_STATES.values(), 0)
        for trial in self.trials:
            counts[_STATES[trial.state]] += 1
        return counts

    @cached_property
    def question_evaluations(self) -> int:
        """Questions answered so far, over all layer sets."""
        return sum(record.evaluated for record in self.records)

    @cached_property
    def expected_evaluations(self) -> int:
        """An estimate of the question evaluations of the whole search."""
        done = self.question_evaluations
        if self.phase == Phase.done or not self.n_layers:
            return done
        explore, refine = self.definition.explore, self.definition.refine
        most, n_choices = self.definition.layers.max, self.space.n_choices
        probes = 0 if self.definition.prior.single_layer_scores else n_choices
        explored = explore.population * explore.generations
        neighbours = most * (n_choices - most) + n_choices
        sets = probes + explored + neighbours * refine.top * 0.7 * min(refine.rounds, 1)
        verified = refine.verify * min(refine.rounds, 2)
        full = self.definition.validation.top + verified + 0.1 * explored
        return max(done, int(sets * self.n_fast + full * (self.n_full - self.n_fast)))

    @cached_property
    def funnel(self) -> Funnel:
        """Numbers of layer sets by how far they came."""
        return funnel(self.records, self.n_fast)

    @cached_property
    def workers(self) -> list[WorkerState]:
        """The workers of the study, in the order in which they started."""
        return read_workers(self.attrs)

    @cached_property
    def savings(self) -> Savings:
        """What racing and shared prefixes have saved."""
        return savings(self.records, self.workers, self.n_full)

    @cached_property
    def failures(self) -> list[Failure]:
        """Trials without a result, by reason."""
        return failures(self.records, self.space)

    @property
    def failed(self) -> int:
        """Number of trials that failed because of their layer sets."""
        return sum(f.trials for f in self.failures if not f.returned)

    @property
    def passes(self) -> int:
        """Layer passes that all workers have run (one layer on one question each)."""
        return sum(worker.passes for worker in self.workers)

    @cached_property
    def course(self) -> Course:
        """The best score against cost, and what each phase took."""
        return course(self.trials, self.records, self.n_fast, self.n_full, self.space)

    def status(self) -> dict[str, Any]:
        """What `optlayers status --json` prints."""
        return {
            "study": self.definition.name,
            "phase": self.phase,
            "trials": self.trial_counts,
            "distinct_layer_sets": self.funnel.evaluated,
            "question_evaluations": self.question_evaluations,
            "best": self.best.to_dict() if self.best else None,
        }

    def selection_note(self, held_out: bool) -> str:
        """How many layer sets were compared, and what that means for the best score.

        held_out: whether held-out scores are shown next to it.
        """
        note = (
            f"the best of {self.funnel.evaluated} layer sets on {self.question_evaluations:,} "
            "question evaluations: the best of many scores is partly luck"
        )
        return note + (", its held-out score is not" if held_out else "")

    # ------------------------------------------------------------------ what was learned

    @cached_property
    def effects(self) -> Effects | None:
        """What layers add to the score, alone and together."""
        return effects(self.records, self.space) if self.n_layers else None

    @cached_property
    def generations(self) -> list[Generation]:
        """The best sets after each generation."""
        return generations(self.records, self.space) if self.n_layers else []

    @cached_property
    def choices(self) -> list[str]:
        """What a layer set chooses from: `7`, or with several donors `7@a`."""
        n_choices = self.space.n_choices if self.n_layers else 0
        return [self.space.text(LayerSet.of(choice)) for choice in range(n_choices)]
