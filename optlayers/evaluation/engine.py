"""The engine: a cohort of layer sets on a list of questions, with lm-eval's answers.

Only the needed positions and vocabulary rows reach the head, and only those positions the last
layer's MLP where layers run packed; batches hold a budget of tokens; the
cohort runs along the tree of shared layer prefixes; where the models have a packed form, contexts
that questions share run once. Shapes: B batch, T tokens, E hidden size, K picked positions,
V vocabulary, M targets.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray

from optlayers.errors import EvaluationError
from optlayers.evaluation.base import Judged
from optlayers.evaluation.gather import Picks, TokenSequence, collect, distinct_rows
from optlayers.evaluation.questions import Question
from optlayers.inference.device import tuned_budget
from optlayers.inference.packed import PackedBatch
from optlayers.inference.packing import MIN_SHARED, new_tokens, pack
from optlayers.inference.prefix_tree import schedule, walk
from optlayers.inference.stack import LayerStack
from optlayers.inference.threads import in_lanes
from optlayers.layerset import ONE, Donors, LayerSet
from optlayers.trials.record import as_stored

logger = logging.getLogger(__name__)

# On a CPU the packed form pays where it saves at least this share of the tokens.
WORTH_PACKING = 0.2


class Scoring(Protocol):
    """What the engine asks of the tasks; `tasks.TaskSet` is one."""

    def value(self, question: Question, results: Sequence[tuple[float, bool]]) -> float:
        """What the question counts, 0 to 1, given (log-likelihood, is greedy) a request."""

    def winners(self, question: Question) -> NDArray[np.bool_] | None:
        """Which choice makes the question right by being the likeliest, if that is all."""


@dataclass
class Work:
    """What was run, in layer passes of one token each.

    Done; saved by shared prefixes of layers; saved by shared contexts.
    """

    layer_tokens: int = 0
    saved_layer_tokens: int = 0
    saved_context_tokens: int = 0


@dataclass
class _Launched:
    """A batch on its way: the layer sets in the order of arrival, and values [sets, 2, M]."""

    arrived: list[int]
    picks: Picks
    values: torch.Tensor
    work: Work

    def collect(self, found: NDArray[np.float64]) -> None:
        """Wait for the results and put them where they belong."""
        for candidate, value in zip(self.arrived, self.values.cpu().numpy(), strict=True):
            collect(found[candidate], self.picks, value)


@dataclass
class Engine:
    """Evaluates layer sets of one stack.

    budget: tokens a batch (0: tuned to the device). packed: None chooses, False takes the padded
    form of the modules themselves. share: the shortest beginning of two sequences that runs once.
    tree: share prefixes of layers. trim: run the head, and what of the last layer does not look
    across tokens, on needed positions only, and the head on needed vocabulary rows. sort: put what
    is of one length, or begins alike, side by side; else the order of the questions stands. The
    last four exist to be measured.
    """

    stack: LayerStack
    tasks: Scoring
    device: torch.device
    budget: int = 0
    packed: bool | None = None
    share: int = MIN_SHARED
    tree: bool = True
    trim: bool = True
    sort: bool = True
    donors: Donors = ONE
    work: Work = field(default_factory=Work)

    def answers(
        self, layer_sets: Sequence[LayerSet], questions: Sequence[Question], coarse: bool = False
    ) -> list[NDArray[np.bool_] | EvaluationError]:
        """Right or wrong [questions] of each layer set; see `judge`."""
        return [
            found if isinstance(found, EvaluationError) else found.answers
            for found in self.judge(layer_sets, questions, coarse, logs=False)
        ]

    def judge(
        self,
        layer_sets: Sequence[LayerSet],
        questions: Sequence[Question],
        coarse: bool = False,
        logs: bool = True,
    ) -> list[Judged | EvaluationError]:
        """Right or wrong of each layer set, and how likely the right choices were.

        Of metrics that are neither, values in [0, 1] as they are stored.
        coarse: multiply in eight bits, where the stack has them (`LayerStack.add_eight_bit`).
        logs: False leaves log-probabilities out.
        A layer set whose logits hold NaN gets an `EvaluationError` in its place. Raises
        `EvaluationError` when memory does not suffice for a single sequence.
        """
        winners = [self.tasks.winners(question) for question in questions]
        simple = all(won is not None for won in winners)
        told = logs and all(won is not None and won.any() for won in winners)
        results = self._likelihoods(layer_sets, questions, relative=simple, coarse=coarse)
        right = np.zeros((len(layer_sets), len(questions)))
        likely = np.zeros((len(layer_sets), len(questions)))
        bad = np.asarray(np.isnan(results[:, :, 0]).any(axis=1))
        start = 0
        for q, (question, won) in enumerate(zip(questions, winners, strict=True)):
            stop = start + len(question.requests)
            if won is not None:
                mine = results[:, start:stop, 0]
                right[:, q] = won[mine.argmax(axis=1)]
                if told:
                    with np.errstate(invalid="ignore"):  # NaN has an error of its own below
                        likely[:, q] = np.logaddexp.reduce(mine[:, won], axis=1)
                        likely[:, q] -= np.logaddexp.reduce(mine, axis=1)
            else:
                for i in np.flatnonzero(~bad):
                    part = [(float(ll), bool(greedy)) for ll, greedy in results[i, start:stop]]
                    right[i, q] = self.tasks.value(question, part)
            start = stop
        return [
            EvaluationError(
                f"layers [{layers.text(self.donors)}]: NaN in the logits; these layers do not work "
                "together"
            )
            if bad[i]
            else Judged(_as_answers(right[i]), likely[i] if told else None)
            for i, layers in enumerate(layer_sets)
        ]

    def likelihoods(
        self, layer_sets: Sequence[LayerSet], questions: Sequence[Question], coarse: bool = False
    ) -> NDArray[np.float64]:
        """Log-likelihood and greediness [layer sets, requests, 2] of the questions' requests."""
        return self._likelihoods(layer_sets, questions, relative=False, coarse=coarse)

    def _likelihoods(
        self,
        layer_sets: Sequence[LayerSet],
        questions: Sequence[Question],
        relative: bool,
        coarse: bool = False,
    ) -> NDArray[np.float64]:
        """The same; `relative` needs right differences within a question only."""
        n_requests = sum(len(question.requests) for question in questions)
        found = np.full((len(layer_sets), n_requests, 2), np.nan)
        rows = distinct_rows(questions)
        packed = self._packs(rows)
        if self.sort:
            rows.sort(key=lambda row: row.tokens if packed else (-len(row.tokens), row.tokens))
        if self.budget <= 0:
            self.budget = tuned_budget(self.stack, self.device)
        cost = [len(row.tokens) for row in rows]
        if packed:
            cost = new_tokens([row.tokens for row in rows], self.share)
        step = len(layer_sets) if self.tree else 1

        def launch(batch: Sequence[TokenSequence]) -> list[_Launched]:
            return [
                self._run(
                    layer_sets[i : i + step], batch, i, packed, relative and self.trim, coarse
                )
                for i in range(0, len(layer_sets), step)
            ]

        lanes = torch.get_num_threads() if self.stack.narrow else 1
        position = 0
        if lanes > 1:
            batches = []
            while position < len(rows):
                count = self._take(rows, cost, position, packed)
                batches.append(rows[position : position + count])
                position += count
            for launched in in_lanes(launch, batches, lanes):
                self._collect(launched, found)
            return found
        waiting: list[_Launched] = []
        while position < len(rows):
            count = self._take(rows, cost, position, packed)
            batch = rows[position : position + count]
            try:
                launched = launch(batch)
            except torch.cuda.OutOfMemoryError:
                torch.cuda.empty_cache()
                length = max(len(row.tokens) for row in batch)
                if len(batch) == 1:
                    raise EvaluationError(
                        f"out of memory for one sequence of {length} tokens; use a larger device"
                    ) from None
                total = sum(len(row.tokens) for row in batch)
                self.budget = max(length, min(self.budget, total) // 2)
                logger.warning("out of memory: batches of %d tokens from now on", self.budget)
                continue
            # The results of a batch are fetched while the next one runs.
            self._collect(waiting, found)
            waiting = launched
            position += count
        self._collect(waiting, found)
        return found

    def _collect(self, launched: Sequence[_Launched], found: NDArray[np.float64]) -> None:
        """Put the results of a batch where they belong, and count its work."""
        for one in launched:
            one.collect(found)
            self.work.layer_tokens += one.work.layer_tokens
            self.work.saved_layer_tokens += one.work.saved_layer_tokens
            self.work.saved_context_tokens += one.work.saved_context_tokens

    def _packs(self, rows: Sequence[TokenSequence]) -> bool:
        """Whether to run packed: on a GPU with fused layers, or where it saves enough."""
        if self.packed is not None or not self.stack.packable:
            return bool(self.packed)
        if self.device.type != "cpu":
            return self.stack.fused
        tokens = sorted(row.tokens for row in rows)
        whole = sum(map(len, tokens))
        return sum(new_tokens(tokens, self.share)) <= (1 - WORTH_PACKING) * whole

    def _take(
        self, rows: Sequence[TokenSequence], cost: Sequence[int], position: int, packed: bool
    ) -> int:
        """The number of rows of the next batch: as many as the budget holds, one at least."""
        if not packed:
            longest = np.maximum.accumulate([len(row.tokens) for row in rows[position:]])
            padded = longest * np.arange(1, len(longest) + 1)
            return max(1, int(np.searchsorted(padded, self.budget, side="right")))
        ends = np.cumsum([len(rows[position].tokens), *cost[position + 1 :]])
        # What is left is split into batches of one size, so that none is nearly empty.
        size = ends[-1] / -(-int(ends[-1]) // self.budget)
        return max(1, int(np.searchsorted(ends, size + 0.5, side="right")))

    @torch.inference_mode()
    def _run(
        self,
        layer_sets: Sequence[LayerSet],
        batch: Sequence[TokenSequence],
        first: int,
        packed: bool,
        relative: bool,
        coarse: bool,
    ) -> _Launched:
        """Send one batch through the whole tree; `first` is the number of the first layer set."""
        picks = Picks.of(batch, relative)
        stack, device = self.stack, self.device
        real = tokens = sum(len(row.tokens) for row in batch)
        longest = max(len(row.tokens) for row in batch)
        places = [b * longest + t for b, t in picks.where]
        if packed or (stack.even and self.packed is None):
            if packed:
                laid = pack([row.tokens for row in batch], self.share)
                tokens = laid.n_tokens
                parts = [(s.tokens, s.start, s.parent) for s in laid.segments]
                places = [laid.index(b, t) for b, t in picks.where]
            else:
                parts = [(row.tokens + (0,) * (longest - len(row.tokens)), 0, -1) for row in batch]
            many = PackedBatch.of(parts, device)
            if self.trim:
                many.keep = torch.tensor(places, device=device)
                places = list(range(len(places)))
            h = stack.begin_packed(many)

            def run(layer: int, origin: int, state: torch.Tensor) -> torch.Tensor:
                return stack.run_packed(layer, origin, state, many, coarse)
        else:
            padded = torch.zeros(len(batch), longest, dtype=torch.long)
            for b, row in enumerate(batch):
                padded[b, : len(row.tokens)] = torch.tensor(row.tokens)
            h, inputs = stack.begin(padded.to(device))

            def run(layer: int, origin: int, state: torch.Tensor) -> torch.Tensor:
                return stack.run(layer, origin, state, inputs)

        where, spot, goal = (
            torch.tensor(x, device=device) for x in (places, picks.spots, picks.goals)
        )
        rows = torch.tensor(picks.rows, device=device) if picks.rows else None
        arrived: list[int] = []
        kept: list[torch.Tensor] = []

        def arrive(candidate: int, state: torch.Tensor) -> None:
            flat = state.reshape(-1, state.shape[-1])
            logits = stack.logits(flat[where], rows) if self.trim else _all(stack, flat, where)
            logs = torch.log_softmax(logits.float(), dim=-1)
            greedy = logs.argmax(dim=-1)[spot] == goal
            arrived.append(first + candidate)
            kept.append(torch.stack([logs[spot, goal].double(), greedy.double()]))

        passes = schedule(layer_sets, stack.n_layers, stack.n_donors)
        stack.expect(passes)
        walk(layer_sets, stack.n_layers, h, run, arrive, stack.n_donors)
        everything = len(layer_sets) * stack.n_layers
        work = Work(
            len(passes) * tokens,
            (everything - len(passes)) * tokens,
            everything * (real - tokens),
        )
        return _Launched(arrived, picks, torch.stack(kept), work)


def _as_answers(values: NDArray[np.float64]) -> NDArray[Any]:
    """Values [n] as bool where all are 0 or 1, else as they are stored."""
    right = values == 1.0
    return right if (right | (values == 0.0)).all() else as_stored(values)


def _all(stack: LayerStack, flat: torch.Tensor, where: torch.Tensor) -> torch.Tensor:
    """The picked logits, by way of all of them: the twin of trimming."""
    parts = []
    for start in range(0, len(flat), 2048):
        logits = stack.logits(flat[start : start + 2048])
        mine = where[(where >= start) & (where < start + 2048)]
        parts.append((mine, logits[mine - start]))
    order = torch.cat([mine for mine, _ in parts])
    return torch.cat([logits for _, logits in parts])[
        (order[None] == where[:, None]).int().argmax(dim=1)
    ]
