"""Names of the user attributes that trials and studies carry, and reasons of failure."""

from __future__ import annotations

from typing import Final

# Set when a trial is claimed.
LAYERS: Final = "layers"  # "3,7"
PHASE: Final = "phase"  # probe, explore, validate or refine
GOAL: Final = "goal"  # step, fast, race or full
GENERATION: Final = "generation"  # int, of explore trials
ROUND: Final = "round"  # int from 1, of refine trials
START: Final = "start"  # int, questions that the set had answered when it was to go on
WORKER: Final = "worker"
DEVICE: Final = "device"

# Set when a trial is told.
ANSWERS: Final = "answers"  # base64 of np.packbits, the first `questions` questions
QUESTIONS: Final = "questions"  # int
# Of each rung among the fast questions: their number, the shares of right answers among the even
# and the odd ones, and the mean log-probabilities of the right choices among them.
HALVES: Final = "halves"  # list of lists
SCORE: Final = "score"
CI_LOW: Final = "ci_low"
CI_HIGH: Final = "ci_high"
FIDELITY: Final = "fidelity"  # fast or full
EVALUATED: Final = "evaluated"  # int, new questions that this trial paid for
REASON: Final = "reason"  # why a trial failed, or `REASON_BEATEN`

# Set on the study.
N_LAYERS: Final = "n_layers"
DONORS: Final = "donors"  # list of str, their names where there are several
SAMPLER: Final = "sampler"  # the name in the study file, explore.sampler
N_FAST: Final = "n_fast"  # questions
N_FULL: Final = "n_full"  # questions
QUESTION_STRATA: Final = "question_strata"  # list of int, subject of each question
SUBJECT_WEIGHTS: Final = "subject_weights"  # list of float, one a subject
WORKER_STATE: Final = "worker:"  # prefix, before a worker's name: its `WorkerState`
N_HELD: Final = "n_held"  # held-out questions
HELD_OUT: Final = "holdout:"  # prefix, before a layer set: its held-out score and answers
REFERENCE: Final = "reference:"  # prefix, before base or a donor: its answers, as `ANSWERS`

# Failures that say nothing about the layer set itself.
REASON_LOST: Final = "lost worker"
REASON_DUPLICATE: Final = "duplicate"
REASON_INTERRUPTED: Final = "interrupted"
# Not a failure: the race says that the set is not the best; without it, a pruned set has paused.
REASON_BEATEN: Final = "beaten"
HARMLESS_REASONS: Final = (REASON_LOST, REASON_DUPLICATE, REASON_INTERRUPTED)
# The layer set was tried as often as it may be: it is given up at once.
REASON_SPENT: Final = "no result"
