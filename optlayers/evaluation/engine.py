"""The engine: log-likelihoods and answers of a cohort of layer sets on a list of questions.

What it saves: layer sets with equal first layers share them; contexts that questions share run
once, where the layers have a packed form; only the needed positions reach the head and, packed,
the last MLP; only the needed rows of the vocabulary are computed. Shapes: B sequences, T tokens,
E hidden size, K needed positions, V vocabulary, M targets.
"""

from __future__ import annotations

import bisect
import logging
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray

from optlayers.errors import EvaluationError
from optlayers.evaluation.base import Judged
from optlayers.evaluation.gather import Targets, TokenSequence, distinct_sequences
from optlayers.evaluation.questions import Question
from optlayers.inference.device import default_budget
from optlayers.inference.packed import PackedBatch
from optlayers.inference.packing import MIN_SHARED, new_tokens, pack
from optlayers.inference.prefix_tree import schedule, walk
from optlayers.inference.stack import LayerStack
from optlayers.inference.threads import map_in_threads
from optlayers.layerset import LayerSet, LayerSpace
from optlayers.trials.answers import Answers, as_stored

logger = logging.getLogger(__name__)

# On a CPU the packed form pays where it saves at least this share of the tokens.
WORTH_PACKING = 0.2


class Scoring(Protocol):
    """How results become answers; `tasks.TaskSet` implements it."""

    def value(self, question: Question, results: Sequence[tuple[float, bool]]) -> float:
        """The value of a question, 0 to 1; results: (log-likelihood, is greedy) of each request."""

    def winners(self, question: Question) -> NDArray[np.bool_] | None:
        """Which choices are right, where the likeliest choice alone decides; else None."""


@dataclass
class Work:
    """Layer passes of one token each: done, saved by shared layers, saved by shared contexts."""

    layer_tokens: int = 0
    saved_layer_tokens: int = 0
    saved_context_tokens: int = 0

    def add(self, other: Work) -> None:
        """Count the work of another too."""
        self.layer_tokens += other.layer_tokens
        self.saved_layer_tokens += other.saved_layer_tokens
        self.saved_context_tokens += other.saved_context_tokens


@dataclass
class _Launched:
    """A batch that may still run on the device: its layer sets, targets and values [sets, 2, M]."""

    sets: list[int]
    targets: Targets
    values: torch.Tensor
    work: Work


def nan_error(layers: LayerSet, space: LayerSpace) -> EvaluationError:
    """The error of a layer set whose logits hold NaN."""
    return EvaluationError(
        f"layers [{space.text(layers)}]: NaN in the logits; these layers do not work together"
    )


@dataclass
class Engine:
    """Evaluates layer sets of one stack.

    budget: tokens a batch (0: `default_budget`). packed: None chooses; False runs the modules on
    padded batches. The rest exists to be measured: share, the shortest common beginning that runs
    once; tree, share the first layers; trim, compute needed positions and vocabulary rows alone;
    sort, put sequences of one length, or with one beginning, into one batch.
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
    work: Work = field(default_factory=Work)

    def __post_init__(self) -> None:
        self._limits = self.stack.rotary_limits

    def answers(
        self, layer_sets: Sequence[LayerSet], questions: Sequence[Question], coarse: bool = False
    ) -> list[Answers | EvaluationError]:
        """The answers [questions] of each layer set; see `judge`."""
        return [
            found if isinstance(found, EvaluationError) else found.answers
            for found in self.judge(layer_sets, questions, coarse)
        ]

    def judge(
        self, layer_sets: Sequence[LayerSet], questions: Sequence[Question], coarse: bool = False
    ) -> list[Judged | EvaluationError]:
        """The answers of each layer set, with log-probabilities where every question has a winner.

        coarse: multiply in eight bits (after `LayerStack.add_eight_bit`). A layer set whose logits
        hold NaN gets an `EvaluationError`. Raises `EvaluationError` if memory is too small for one
        sequence.
        """
        winners = [self.tasks.winners(question) for question in questions]
        relative = all(won is not None for won in winners)
        known = all(won is not None and won.any() for won in winners)
        results = self.likelihoods(layer_sets, questions, coarse, relative)
        values = np.zeros((len(layer_sets), len(questions)))
        logs = np.zeros_like(values)
        bad = np.asarray(np.isnan(results[:, :, 0]).any(axis=1))
        start = 0
        for q, (question, won) in enumerate(zip(questions, winners, strict=True)):
            stop = start + len(question.requests)
            if won is not None:
                mine = results[:, start:stop, 0]
                values[:, q] = won[mine.argmax(axis=1)]
                if known:
                    with np.errstate(invalid="ignore"):  # sets with NaN get an error below
                        logs[:, q] = np.logaddexp.reduce(mine[:, won], axis=1)
                        logs[:, q] -= np.logaddexp.reduce(mine, axis=1)
            else:
                for i in np.flatnonzero(~bad):
                    part = [(float(ll), bool(greedy)) for ll, greedy in results[i, start:stop]]
                    values[i, q] = self.tasks.value(question, part)
            start = stop
        return [
            nan_error(layers, self.stack.space)
            if bad[i]
            else Judged(_as_answers(values[i]), logs[i] if known else None)
            for i, layers in enumerate(layer_sets)
        ]

    def likelihoods(
        self,
        layer_sets: Sequence[LayerSet],
        questions: Sequence[Question],
        coarse: bool = False,
        relative: bool = False,
    ) -> NDArray[np.float64]:
        """Log-likelihood and greediness [layer sets, requests, 2] of the questions' requests.

        coarse: see `judge`. relative: log-likelihoods may be off by a constant for each question.
        """
        found = np.full((len(layer_sets), sum(len(q.requests) for q in questions), 2), np.nan)
        sequences = distinct_sequences(questions)
        packed = self._packs(sequences)
        if self.sort:
            sequences.sort(key=lambda s: s.tokens if packed else (-len(s.tokens), s.tokens))
        if self.budget <= 0:
            self.budget = default_budget(self.stack, self.device)
        step = len(layer_sets) if self.tree else 1

        def launch(batch: Sequence[TokenSequence]) -> list[_Launched]:
            targets = Targets.of(batch, relative and self.trim)
            return [
                self._run(layer_sets[i : i + step], batch, i, packed, targets, coarse)
                for i in range(0, len(layer_sets), step)
            ]

        threads = torch.get_num_threads() if self.stack.narrow else 1
        if threads > 1:
            done = map_in_threads(launch, self._batches(sequences, packed), threads)
        else:
            done = self._one_by_one(launch, sequences, packed)
        waiting: list[_Launched] = []
        for launched in done:
            # The results of a batch are fetched while the next one runs.
            self._collect(waiting, found)
            waiting = launched
        self._collect(waiting, found)
        return found

    def _one_by_one(
        self,
        launch: Callable[[Sequence[TokenSequence]], list[_Launched]],
        sequences: Sequence[TokenSequence],
        packed: bool,
    ) -> Iterator[list[_Launched]]:
        """Launch one batch after another; smaller ones where memory is too small."""
        for batch in self._batches(sequences, packed):
            try:
                launched = launch(batch)
            except torch.cuda.OutOfMemoryError:
                self._shrink([len(sequence.tokens) for sequence in batch])
            else:
                yield launched
                continue
            yield from self._one_by_one(launch, batch, packed)

    def _shrink(self, lengths: Sequence[int]) -> None:
        """Lower the budget after a batch that did not fit; raises for a single sequence."""
        torch.cuda.empty_cache()
        if len(lengths) == 1:
            raise EvaluationError(
                f"out of memory for one sequence of {lengths[0]} tokens; use a larger device"
            ) from None
        self.budget = max(*lengths, min(self.budget, sum(lengths)) // 2)
        logger.warning("out of memory: batches of %d tokens from now on", self.budget)

    def _collect(self, launched: Sequence[_Launched], found: NDArray[np.float64]) -> None:
        """Wait for the results of a batch, and store them and its work."""
        for one in launched:
            for number, values in zip(one.sets, one.values.cpu().numpy(), strict=True):
                one.targets.add_to(found[number], values)
            self.work.add(one.work)

    def _packs(self, sequences: Sequence[TokenSequence]) -> bool:
        """Whether to run packed: on a GPU with fused layers, on a CPU where it saves enough."""
        if self.packed is not None or not self.stack.packable:
            return bool(self.packed)
        if self.device.type != "cpu":
            return self.stack.fused
        tokens = sorted(sequence.tokens for sequence in sequences)
        whole = sum(map(len, tokens))
        return sum(new_tokens(tokens, self.share)) <= (1 - WORTH_PACKING) * whole

    def _batches(
        self, sequences: Sequence[TokenSequence], packed: bool
    ) -> Iterator[Sequence[TokenSequence]]:
        """Split sequences into batches of as many tokens as the budget holds, one at least."""
        # The longest of a batch sets the frequencies of all: what needs others is not mixed.
        groups: dict[int, list[TokenSequence]] = {}
        for sequence in sequences:
            kind = bisect.bisect_left(self._limits, len(sequence.tokens))
            groups.setdefault(kind, []).append(sequence)
        for group in groups.values():
            yield from self._split(group, packed)

    def _split(
        self, sequences: Sequence[TokenSequence], packed: bool
    ) -> Iterator[Sequence[TokenSequence]]:
        lengths = np.array([len(sequence.tokens) for sequence in sequences])
        added = np.array(new_tokens([s.tokens for s in sequences], self.share) if packed else [])
        start = 0
        while start < len(sequences):
            if packed:
                ends = np.cumsum([lengths[start], *added[start + 1 :]])
                # Batches of about one size, so that none is nearly empty.
                most = ends[-1] / -(-int(ends[-1]) // self.budget) + 0.5
            else:
                longest = np.maximum.accumulate(lengths[start:])
                ends = longest * np.arange(1, len(longest) + 1)  # padded to the longest
                most = self.budget
            count = max(1, int(np.searchsorted(ends, most, side="right")))
            yield sequences[start : start + count]
            start += count

    @torch.inference_mode()
    def _run(
        self,
        layer_sets: Sequence[LayerSet],
        batch: Sequence[TokenSequence],
        first: int,
        packed: bool,
        targets: Targets,
        coarse: bool,
    ) -> _Launched:
        """Send one batch through the whole tree; `first` is the number of the first layer set."""
        stack, device = self.stack, self.device
        real = laid = sum(len(sequence.tokens) for sequence in batch)
        longest = max(len(sequence.tokens) for sequence in batch)
        places = [b * longest + t for b, t in targets.positions]
        if packed or (stack.narrow_ops and self.packed is None):
            if packed:
                layout = pack([sequence.tokens for sequence in batch], self.share)
                laid = layout.n_tokens
                parts = [(s.tokens, s.start, s.parent) for s in layout.segments]
                places = [layout.index(b, t) for b, t in targets.positions]
            else:
                parts = [(s.tokens + (0,) * (longest - len(s.tokens)), 0, -1) for s in batch]
            inputs = PackedBatch.of(parts, device)
            if self.trim:
                inputs.keep = torch.tensor(places, device=device)
                places = list(range(len(places)))
            h = stack.begin_packed(inputs)

            def run(layer: int, origin: int, state: torch.Tensor) -> torch.Tensor:
                return stack.run_packed(layer, origin, state, inputs, coarse)
        else:
            padded = torch.zeros(len(batch), longest, dtype=torch.long)
            for b, sequence in enumerate(batch):
                padded[b, : len(sequence.tokens)] = torch.tensor(sequence.tokens)
            h, of_layers = stack.begin(padded.to(device))

            def run(layer: int, origin: int, state: torch.Tensor) -> torch.Tensor:
                return stack.run(layer, origin, state, of_layers)

        where, states, tokens = (
            torch.tensor(x, device=device) for x in (places, targets.states, targets.tokens)
        )
        rows = torch.tensor(targets.vocabulary, device=device) if targets.vocabulary else None
        sets: list[int] = []
        kept: list[torch.Tensor] = []

        def arrive(number: int, state: torch.Tensor) -> None:
            h = state.reshape(-1, state.shape[-1])
            logits = stack.logits(h[where], rows) if self.trim else stack.logits(h)[where]
            logs = torch.log_softmax(logits.float(), dim=-1)
            greedy = logs.argmax(dim=-1)[states] == tokens
            sets.append(first + number)
            kept.append(torch.stack([logs[states, tokens].double(), greedy.double()]))

        passes = schedule(layer_sets, stack.space)
        stack.expect(passes)
        walk(layer_sets, stack.space, h, run, arrive)
        alone = len(layer_sets) * stack.n_layers
        work = Work(len(passes) * laid, (alone - len(passes)) * laid, alone * (real - laid))
        return _Launched(sets, targets, torch.stack(kept), work)


def _as_answers(values: NDArray[np.float64]) -> NDArray[Any]:
    """Values [n] as bool where all are 0 or 1, else as they are stored."""
    right = values == 1.0
    return right if (right | (values == 0.0)).all() else as_stored(values)
