"""The engine: a cohort of layer sets on a list of questions, with lm-eval's answers.

Only the needed positions reach the head; batches are sorted by length under a token budget; the
cohort runs along the tree of shared layer prefixes. Shapes: B batch, T tokens, E hidden size,
K picked positions, V vocabulary.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import NDArray

from optlayers.errors import EvaluationError
from optlayers.evaluation.prefix_tree import layer_passes, walk
from optlayers.evaluation.tasks import Question, TaskSet
from optlayers.layerset import LayerSet
from optlayers.models.stack import LayerStack

logger = logging.getLogger(__name__)

# On a CPU the activations of a batch should stay in the cache of one core.
CPU_BUDGET = 512
GPU_BUDGET = 16_384


@dataclass
class Work:
    """What was run, in layer passes of one token each: done, and saved by shared prefixes."""

    layer_tokens: int = 0
    saved_layer_tokens: int = 0


@dataclass(frozen=True)
class _Row:
    """One distinct sequence, and the requests that it serves: (request number, targets)."""

    tokens: tuple[int, ...]
    wants: tuple[tuple[int, tuple[int, ...]], ...]


@dataclass
class Engine:
    """Evaluates layer sets of one stack; `budget` is the number of padded tokens a batch."""

    stack: LayerStack
    tasks: TaskSet
    device: torch.device
    budget: int = 0
    work: Work = field(default_factory=Work)

    def __post_init__(self) -> None:
        if self.budget <= 0:
            self.budget = CPU_BUDGET if self.device.type == "cpu" else GPU_BUDGET

    def answers(
        self, layer_sets: Sequence[LayerSet], questions: Sequence[Question]
    ) -> list[NDArray[np.bool_] | EvaluationError]:
        """Right or wrong [questions] of each layer set.

        A layer set whose logits hold NaN gets an `EvaluationError` in its place. Raises
        `EvaluationError` when memory does not suffice for a single sequence.
        """
        results = self.likelihoods(layer_sets, questions)
        answers: list[NDArray[np.bool_] | EvaluationError] = []
        for layers, rows in zip(layer_sets, results, strict=True):
            if np.isnan(rows[:, 0]).any():
                answers.append(
                    EvaluationError(
                        f"layers [{layers}]: NaN in the logits; these layers do not work together"
                    )
                )
                continue
            right, start = np.zeros(len(questions), dtype=np.bool_), 0
            for q, question in enumerate(questions):
                stop = start + len(question.requests)
                part = [(float(ll), bool(greedy)) for ll, greedy in rows[start:stop]]
                right[q] = self.tasks.is_right(question, part)
                start = stop
            answers.append(right)
        return answers

    def likelihoods(
        self, layer_sets: Sequence[LayerSet], questions: Sequence[Question]
    ) -> NDArray[np.float64]:
        """Log-likelihood and greediness [layer sets, requests, 2] of the questions' requests."""
        rows = _rows(questions)
        n_requests = sum(len(question.requests) for question in questions)
        found = np.full((len(layer_sets), n_requests, 2), np.nan)
        order = sorted(range(len(rows)), key=lambda r: (-len(rows[r].tokens), rows[r].tokens))
        position = 0
        while position < len(order):
            length = len(rows[order[position]].tokens)
            size = max(1, self.budget // length)
            batch = [rows[r] for r in order[position : position + size]]
            try:
                self._run(layer_sets, batch, found)
            except torch.cuda.OutOfMemoryError:
                torch.cuda.empty_cache()
                if len(batch) == 1:
                    raise EvaluationError(
                        f"out of memory for one sequence of {length} tokens; use a larger device"
                    ) from None
                self.budget = max(length, len(batch) * length // 2)
                logger.warning("out of memory: batches of %d tokens from now on", self.budget)
                continue
            position += len(batch)
        return found

    @torch.inference_mode()
    def _run(
        self, layer_sets: Sequence[LayerSet], batch: Sequence[_Row], found: NDArray[np.float64]
    ) -> None:
        """One batch through the whole tree; fills `found`."""
        longest = max(len(row.tokens) for row in batch)
        tokens = torch.zeros(len(batch), longest, dtype=torch.long)
        for b, row in enumerate(batch):
            tokens[b, : len(row.tokens)] = torch.tensor(row.tokens)
        picks, spots, requests, targets = _picks(batch)
        where = torch.tensor(picks, device=self.device)  # [K, 2] row and position
        goal = torch.tensor(targets, device=self.device)  # [M]
        spot = torch.tensor(spots, device=self.device)  # [M] which pick predicts the target
        owner = np.array(requests)  # [M] which request the target belongs to
        h, inputs = self.stack.begin(tokens.to(self.device))

        def run(layer: int, from_donor: bool, state: torch.Tensor) -> torch.Tensor:
            return self.stack.run(layer, from_donor, state, inputs)

        def arrive(candidate: int, state: torch.Tensor) -> None:
            logits = self.stack.logits(state[where[:, 0], where[:, 1]])  # [K, V]
            logs = torch.log_softmax(logits.float(), dim=-1)
            best = logs.argmax(dim=-1)
            value = logs[spot, goal].double().cpu().numpy()
            greedy = (best[spot] == goal).cpu().numpy()
            _collect(found[candidate], owner, value, greedy)

        walk(layer_sets, self.stack.n_layers, h, run, arrive)
        real = sum(len(row.tokens) for row in batch)
        passes = layer_passes(layer_sets, self.stack.n_layers)
        self.work.layer_tokens += passes * real
        everything = len(layer_sets) * self.stack.n_layers
        self.work.saved_layer_tokens += (everything - passes) * real


def _rows(questions: Sequence[Question]) -> list[_Row]:
    """The distinct sequences: choices of one token share the sequence that is their context."""
    wants: dict[tuple[int, ...], list[tuple[int, tuple[int, ...]]]] = {}
    number = 0
    for question in questions:
        for request in question.requests:
            wants.setdefault(request.tokens, []).append((number, request.targets))
            number += 1
    return [_Row(tokens, tuple(group)) for tokens, group in wants.items()]


def _picks(
    batch: Sequence[_Row],
) -> tuple[list[tuple[int, int]], list[int], list[int], list[int]]:
    """Which (row, position) pairs reach the head, and for every target: its pick and request."""
    index: dict[tuple[int, int], int] = {}
    spots, requests, targets = [], [], []
    for b, row in enumerate(batch):
        for request, wanted in row.wants:
            start = len(row.tokens) - len(wanted)
            for offset, target in enumerate(wanted):
                pick = index.setdefault((b, start + offset), len(index))
                spots.append(pick)
                requests.append(request)
                targets.append(target)
    return list(index), spots, requests, targets


def _collect(
    found: NDArray[np.float64],
    owner: NDArray[np.int64],
    value: NDArray[np.float64],
    greedy: NDArray[np.bool_],
) -> None:
    """Sum the log-likelihoods of each request's targets, and join their greediness."""
    present, start = np.unique(owner, return_index=True)
    order = np.argsort(start)
    present, start = present[order], start[order]
    found[present, 0] = np.add.reduceat(value, start)
    found[present, 1] = np.logical_and.reduceat(greedy, start)
