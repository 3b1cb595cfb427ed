"""The sampler and the pruner alone, on a subset problem that has nothing to do with models.

Which 2 to 5 of 40 sensors tell good from bad parts? A set is scored on batches of parts, and a poor
one is stopped after the first batch. Needs optuna and numpy, no torch:

    python examples/any_subset_problem.py
"""

from __future__ import annotations

import numpy as np
import optuna

from optlayers.search import LayerSet, PatternGASampler, RacingPruner

SENSORS, BATCHES = 40, (200, 400, 800, 1600)


def right_answers(sensors: LayerSet, parts: int, seed: int = 0) -> np.ndarray:
    """Right or wrong, bool [parts], of the vote of these sensors on the same parts every time."""
    rng = np.random.default_rng(seed)
    good = rng.random(parts) < 0.5
    noise = rng.normal(0.0, 1.0, (parts, SENSORS))
    signal = np.zeros(SENSORS)
    signal[[3, 8, 21, 30]] = (0.5, 0.7, 0.6, 0.4)
    # Sensor 8 and sensor 9 share their noise: one of them alone misleads.
    noise[:, 9] = noise[:, 8]
    vote = (np.where(good, 1.0, -1.0)[:, None] * signal + noise)[:, list(sensors.indices)]
    return np.asarray((vote.sum(axis=1) > 0) == good)


def main(trials: int = 150) -> optuna.Study:
    """Search, print the best set, and return the study."""
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    sampler = PatternGASampler(n_layers=SENSORS, min_layers=2, max_layers=5, seed=0)
    study = optuna.create_study(
        direction="maximize", sampler=sampler, pruner=RacingPruner(top_k=3, alpha=0.1)
    )
    for _ in range(trials):
        trial = study.ask(sampler.search_space())
        sensors = LayerSet.from_params(trial.params)
        answers = right_answers(sensors, BATCHES[-1])
        for parts in BATCHES:
            trial.report(float(answers[:parts].mean()), parts)
            if trial.should_prune():
                study.tell(trial, state=optuna.trial.TrialState.PRUNED)
                break
        else:
            study.tell(trial, float(answers.mean()))
    best = LayerSet.from_params(study.best_trial.params)
    stopped = sum(t.state == optuna.trial.TrialState.PRUNED for t in study.trials)
    print(f"best sensors: {best}, right {study.best_value:.1%}")
    print(f"{stopped} of {trials} stopped early")
    return study


if __name__ == "__main__":
    main()
