"""The checks of benchmarks/storage/reliability.py: what must hold after any disturbance."""

from __future__ import annotations

from collections import Counter, defaultdict
from pathlib import Path

import numpy as np
import optuna
from optuna.trial import FrozenTrial, TrialState

from benchmarks.lib.program import LANDSCAPE
from benchmarks.storage.reliability_runs import MOST_LAYERS, Figures, Run, Workers
from optlayers.config.study import StudyDefinition, load_study
from optlayers.layerset import LayerSpace
from optlayers.results.leaderboard import leaderboard
from optlayers.results.view import StudyView
from optlayers.search import Goal, Outcome, Phase, Proposal, Rungs
from optlayers.storage.connect import open_study
from optlayers.testing import Landscape
from optlayers.trials import keys
from optlayers.trials.record import read_records
from optlayers.workers.queue import MAX_RETRIES, TrialQueue

# The first try and its retries; one more where two workers had the set at once.
MOST_TRIES = MAX_RETRIES + 2


def check(run: Run, url: str, folder: Path, workers: Workers, figures: Figures) -> None:
    """Add to the run's faults what is not as it must be, and fill in the figures."""
    definition = load_study(str(folder / "study.yaml"))
    study = open_study(url, definition, create=False)
    view = StudyView.of(definition, study)
    if view.phase != "done":
        run.faults.append(f"the study is in phase {view.phase}")
    for name in ("running", "waiting"):
        if view.trial_counts[name]:
            run.faults.append(f"{view.trial_counts[name]} trials are still {name}")
    trials = study.get_trials(deepcopy=False)
    reasons = [str(t.user_attrs.get(keys.REASON, "")) for t in trials]
    figures.trials, figures.layer_sets = len(trials), view.funnel.evaluated
    figures.lost = sum(reason.startswith(keys.REASON_LOST) for reason in reasons)
    figures.given_up = sum(reason.startswith(keys.REASON_SPENT) for reason in reasons)
    for trial, reason in zip(trials, reasons, strict=True):
        if trial.state == TrialState.FAIL and not reason:
            run.faults.append(f"trial {trial.number} failed without a reason")
        if int(trial.user_attrs.get(keys.RETRIES, 0)) > MAX_RETRIES:
            run.faults.append(f"trial {trial.number} is a retry too many")
    check_bad_sets(run, trials)
    check_asked(run, folder, workers, figures)
    check_answers(run, definition, study)


def check_bad_sets(run: Run, trials: list[FrozenTrial]) -> None:
    """Each set that cannot be evaluated was tried a few times and failed with its reason."""
    expected = {"raise": "broke down", "hang": "did not end within", "nan": "NaN in the logits"}
    for layers, fault in run.bad_sets.items():
        mine = [t for t in trials if t.user_attrs.get(keys.LAYERS) == layers]
        reasons = [str(t.user_attrs.get(keys.REASON)) for t in mine]
        if {t.state for t in mine} != {TrialState.FAIL} or len(mine) > MOST_TRIES:
            run.faults.append(f"layer set {layers} ({fault}) has trials {[t.state for t in mine]}")
        elif expected.get(fault, "") not in reasons[-1]:
            run.faults.append(f"layer set {layers} ({fault}) was given up with {reasons[-1]!r}")


def check_asked(run: Run, folder: Path, workers: Workers, figures: Figures) -> None:
    """Every question of a set once; but in the last call of a worker that was killed, again."""
    asked: Counter[tuple[str, int]] = Counter()
    in_flight: Counter[tuple[str, int]] = Counter()
    for number in range(workers.started):
        for log in (folder / "asked" / str(number)).glob("*.log"):
            lines = [line.split(" ") for line in log.read_text().splitlines()]
            for call, start, stop, layers in lines:
                if not layers or len(layers.split(",")) > MOST_LAYERS:
                    # Base and donor, which each worker may look at in the end.
                    continue
                if layers in run.bad_sets:
                    continue
                parts = [(layers, question) for question in range(int(start), int(stop))]
                asked.update(parts)
                if number in workers.killed and call == lines[-1][0]:
                    in_flight.update(parts)
    figures.questions = len(asked)
    figures.again = asked.total() - len(asked)
    twice: dict[str, int] = defaultdict(int)
    for part, count in asked.items():
        if count - 1 > in_flight[part]:
            twice[part[0]] += 1
    for layers, count in twice.items():
        run.faults.append(f"{count} questions of {layers} were evaluated twice without a kill")


def check_answers(run: Run, definition: StudyDefinition, study: optuna.Study) -> None:
    """The leaderboard equals that of one undisturbed worker on the same sets."""
    truth = Landscape.load(LANDSCAPE)
    order = truth.order
    questions = Rungs(order.n_fast, order.n_full, order.subject, order.weights)
    found = leaderboard(definition, read_records(study.get_trials(deepcopy=False)))
    calm = optuna.create_study(direction="maximize")
    queue = TrialQueue(calm, LayerSpace(truth.n_layers), "calm")
    for row in sorted(found, key=lambda row: row.trial):
        layers = next(s for s in truth.index if list(s.indices) == row.layers)
        [claim] = queue.claim([Proposal(layers, Phase.explore, Goal.race)])
        answers = truth.answers[truth.index[layers], : row.questions]
        claim.record = questions.at(claim.record, answers, 0, {})
        whole = len(answers) == order.n_full
        queue.commit([(claim, Outcome.COMPLETE if whole else Outcome.PAUSE)])
    calm_rows = leaderboard(definition, read_records(calm.get_trials(deepcopy=False)))
    mine, theirs = ([{**r.to_dict(), "trial": 0} for r in rows] for rows in (found, calm_rows))
    if mine != theirs:
        differ = sum(a != b for a, b in zip(mine, theirs, strict=False))
        run.faults.append(f"{differ} rows of the leaderboard differ from the undisturbed one")
    for record in read_records(study.get_trials(deepcopy=False)):
        if record.is_evaluated and record.answers is not None:
            recorded = truth.answers[truth.index[record.layers], : record.questions]
            if not np.array_equal(record.answers, recorded):
                run.faults.append(f"trial {record.number}: stored answers are not the recorded")
