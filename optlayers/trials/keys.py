"""Names of the user attributes of trials and studies, and reasons why trials fail."""

from __future__ import annotations

from typing import Final

# A trial, from when a worker claims its layer set.
LAYERS: Final = "layers"  # "3,7"
SIZE: Final = "size"  # int, number of layers, for tables of trials
SET: Final = "set"  # "03 07", the layers as text that sorts, for tables of trials
PHASE: Final = "phase"  # probe, explore, validate or refine
GOAL: Final = "goal"  # step, fast, race or full
GENERATION: Final = "generation"  # int, of explore trials
ROUND: Final = "round"  # int from 1, of refine trials
START: Final = "start"  # int, questions that a resumed layer set had answered
WORKER: Final = "worker"
DEVICE: Final = "device"
RETRIES: Final = "retries"  # int, how often the layer set was lost with its worker

# A trial, from its first rung or from its end.
ANSWERS: Final = "answers"  # see `encode_answers`; the first `questions` questions
QUESTIONS: Final = "questions"  # int
# Per rung among the fast questions: their number, the shares of right answers among the even and
# the odd ones, and the mean log-probabilities of the right choices among them.
HALVES: Final = "halves"  # list of lists
SCORE: Final = "score"
CI_LOW: Final = "ci_low"
CI_HIGH: Final = "ci_high"
FIDELITY: Final = "fidelity"  # fast or full
EVALUATED: Final = "evaluated"  # int, questions that this trial itself answered
REASON: Final = "reason"  # why the trial failed, or `REASON_BEATEN`

# A study.
N_LAYERS: Final = "n_layers"
DONORS: Final = "donors"  # list of str, the names of several donors
SAMPLER: Final = "sampler"  # `explore.sampler` of the study file
N_FAST: Final = "n_fast"  # questions
N_FULL: Final = "n_full"  # questions
QUESTION_STRATA: Final = "question_strata"  # list of int, the subject of each question
SUBJECT_WEIGHTS: Final = "subject_weights"  # list of float
SUBJECTS: Final = "subjects"  # list of str, names
DOCUMENTS: Final = "documents"  # list of str, a digest of each subject's documents
WORKER_STATE: Final = "worker:"  # prefix of a worker's name: its `WorkerState`
N_HELD: Final = "n_held"  # held-out questions
COST: Final = "cost:"  # prefix of a kind of cost: its table, see `Cost`
HELD_OUT: Final = "holdout:"  # prefix of a layer set: its held-out score and answers
REFERENCE: Final = "reference:"  # prefix of base or a donor: its answers, as `ANSWERS`

# Failures that are not the fault of the layer set.
REASON_LOST: Final = "lost worker"
REASON_DUPLICATE: Final = "duplicate"
REASON_INTERRUPTED: Final = "interrupted"
REASON_REFUSED: Final = "refused"  # another program queued it, and it has no set of the budget
HARMLESS_REASONS: Final = (REASON_LOST, REASON_DUPLICATE, REASON_INTERRUPTED, REASON_REFUSED)
# The layer set was lost as often as allowed; it is given up at once.
REASON_SPENT: Final = "no result"
# Of a pruned trial: the race has found it beaten. Without it, the layer set has paused.
REASON_BEATEN: Final = "beaten"
