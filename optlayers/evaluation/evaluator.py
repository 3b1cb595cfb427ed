"""What a worker asks for the answers of layer sets, a slice of questions at a time.

`ModelEvaluator` runs the two models; `landscape.ReplayEvaluator` looks the answers up.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch
from numpy.typing import NDArray

from optlayers.checkpoints.parents import Parents, differing_ends, open_parents
from optlayers.checkpoints.tokenizer import load_tokenizer
from optlayers.config.metrics import to_unit
from optlayers.config.study import CostKind, StudyDefinition
from optlayers.errors import EvaluationError, InputError, ModelError
from optlayers.evaluation.base import Evaluator, Judged
from optlayers.evaluation.costs import layer_costs
from optlayers.evaluation.engine import Engine
from optlayers.evaluation.questions import Question, order_questions
from optlayers.evaluation.tasks import TaskSet, hush
from optlayers.evaluation.texts import Texts, load_reference
from optlayers.inference.stack import LayerStack
from optlayers.layerset import LayerSet
from optlayers.models.families import embedding_rows
from optlayers.trials.cost import Table
from optlayers.trials.record import Answers, as_stored

# MySQL keeps 64 KB of text in a field.
MOST_VALUES = 24_000


class ModelEvaluator(Evaluator):
    """The two models of a study on one device, with the study's questions.

    `limit` takes the first documents of each task instead of the study's order, as lm_eval's
    own option does; then there is no order, and only `engine` and `tasks` are of use.
    """

    def __init__(
        self,
        definition: StudyDefinition,
        device: torch.device,
        dtype: torch.dtype,
        say: Callable[[str], None] = lambda text: None,
        limit: int | None = None,
    ) -> None:
        hush()
        parents = open_parents(definition)
        base, first = parents.base, parents.donors[0]
        self.donors = definition.donor_names
        tokenizer = load_tokenizer(definition)
        say("loading tasks")
        self.tasks = TaskSet.of(definition, limit)
        say("loading models")
        reference = load_reference(definition, first.folder, device, dtype)
        mine, theirs = base.config.vocab_size, first.config.vocab_size
        if reference is not None and mine != theirs:
            raise InputError(
                f"tasks: metric kl compares over one vocabulary, and base and donor have {mine} "
                f"and {theirs} tokens; use perplexity"
            )
        for donor in parents.donors:
            note = differing_ends(base, donor)
            if note:
                say(note)
        self.stack = LayerStack.load(parents, device, dtype, say=say, graft=definition.graft)
        self._check_vocabulary(tokenizer, parents)
        self._fast_in_eight_bit = definition.questions.fast_precision == "fp8" and limit is None
        if self._fast_in_eight_bit:
            self.stack.add_eight_bit()
        self.n_layers = self.stack.n_layers
        self.tasks.prepare(tokenizer, self._length_config(parents))
        self.engine = Engine(self.stack, self.tasks, device, donors=self.donors)
        self.texts = Texts.of(
            definition, tokenizer, self.stack, device, self.tasks.max_length, limit, reference
        )
        self.subjects = [*self.tasks.subjects, *self.texts.subjects]
        self.metrics = [task.metric for task in definition.tasks]
        self.order = order_questions(self.subjects, definition.questions)
        self._check_size(definition)
        if limit is None:
            say("building prompts")
            of_tasks = self.order.subject < len(self.tasks.subjects)
            self.tasks.questions(
                self.order.subject[of_tasks].tolist(), self.order.document[of_tasks].tolist()
            )

    def _check_size(self, definition: StudyDefinition) -> None:
        if definition.real:
            self._check_values()

    def _fitting(self, answers: Answers | EvaluationError) -> Answers | EvaluationError:
        """The answers; checked where they are values other than right and wrong."""
        if not isinstance(answers, EvaluationError) and answers.dtype != np.bool_:
            self._check_values()
        return answers

    def _check_values(self) -> None:
        """Raise `InputError` where databases would not keep as many values."""
        if self.order.n_full > MOST_VALUES:
            raise InputError(
                f"questions: {self.order.n_full} of them, and databases keep {MOST_VALUES} values "
                "other than right and wrong a trial; set questions.full"
            )

    @property
    def hardware(self) -> str:
        """The name of the GPU that it runs on; empty on a CPU."""
        device = self.engine.device
        return torch.cuda.get_device_name(device) if device.type == "cuda" else ""

    @staticmethod
    def _check_vocabulary(tokenizer: object, parents: Parents) -> None:
        tokens = len(tokenizer)  # type: ignore[arg-type]
        rows = embedding_rows(parents.base.config)
        if tokens > rows:
            raise ModelError(
                f"the tokenizer has {tokens} tokens and base {parents.base.name} embeds {rows}; "
                "choose models of one vocabulary, or name a fitting tokenizer"
            )

    @staticmethod
    def _length_config(parents: Parents) -> object:
        """A config with the length that the exported hybrid has: the shortest of them."""
        from optlayers.models.hybrid import HybridConfig

        base, first, *others = (parent.config.to_dict() for parent in parents.all)
        return HybridConfig(base_config=base, donor_config=first, other_configs=others)

    def costs(self, kind: CostKind, n_donors: int) -> Table:
        """What each layer costs from each origin; see `costs.layer_costs`."""
        return layer_costs(kind, self.stack)

    def evaluate(
        self, layer_sets: Sequence[LayerSet], start: int, stop: int
    ) -> list[Answers | EvaluationError]:
        """What each set gives [stop - start], or the error that it met; see `answers`.

        What ends among the fast questions runs in the study's fast precision.
        """
        part = slice(start, stop)
        coarse = self._fast_in_eight_bit and stop <= self.order.n_fast
        return self.answers(layer_sets, self.order.subject[part], self.order.document[part], coarse)

    def judge(
        self, layer_sets: Sequence[LayerSet], start: int, stop: int
    ) -> Sequence[Judged | EvaluationError]:
        """As `evaluate`, with the log-probabilities of the right choices of fast questions.

        Without them where several tasks make one objective: theirs are on scales of their own.
        """
        if stop > self.order.n_fast or not self._plain or len(self.metrics) > 1:
            return super().judge(layer_sets, start, stop)
        subject, document = self.order.subject[start:stop], self.order.document[start:stop]
        questions = self.tasks.questions(subject.tolist(), document.tolist())
        judged = self.engine.judge(layer_sets, questions, self._fast_in_eight_bit)
        for one in judged:
            if not isinstance(one, EvaluationError):
                self._fitting(one.answers)
        return judged

    @property
    def _plain(self) -> bool:
        """Whether all that is asked is right or wrong."""
        return len(self.tasks.subjects) == len(self.subjects) and not any(self.tasks.by_logprob)

    def held_out(self, layer_sets: Sequence[LayerSet]) -> list[Answers | EvaluationError]:
        """What each set gives [held-out questions], or the error that it met; see `answers`."""
        return self.answers(layer_sets, self.order.held_subject, self.order.held_document)

    def in_order(self) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Subject and document of all questions, subject by subject, in lm-eval's order."""
        sizes = [subject.size for subject in self.subjects]
        return np.repeat(np.arange(len(sizes)), sizes), np.concatenate([*map(np.arange, sizes)])

    def answers(
        self,
        layer_sets: Sequence[LayerSet],
        subject: NDArray[np.int64],
        document: NDArray[np.int64],
        coarse: bool = False,
    ) -> list[Answers | EvaluationError]:
        """What each set gives on those questions: right or wrong, bool [n], or values in [0, 1].

        They are values as soon as one task or text of the study has a metric that is not 0 or 1.
        coarse: what is right or wrong may be told in eight bits.
        """
        n_tasks = len(self.tasks.subjects)
        by_logprob = np.array([*self.tasks.by_logprob, *[False] * len(self.texts.specs)])
        if self._plain:
            questions = self.tasks.questions(subject.tolist(), document.tolist())
            return [
                self._fitting(one) for one in self.engine.answers(layer_sets, questions, coarse)
            ]
        found = np.full((len(layer_sets), len(subject)), np.nan)
        plain = np.flatnonzero((subject < n_tasks) & ~by_logprob[subject])
        if len(plain):
            questions = self.tasks.questions(subject[plain].tolist(), document[plain].tolist())
            for i, right in enumerate(self.engine.answers(layer_sets, questions, coarse)):
                if not isinstance(right, EvaluationError):
                    found[i, plain] = right
        likely = np.flatnonzero(by_logprob[subject])
        if len(likely):
            questions = self.tasks.questions(subject[likely].tolist(), document[likely].tolist())
            found[:, likely] = to_unit(self._log_probabilities(layer_sets, questions))
        for text in range(len(self.texts.specs)):
            mine = np.flatnonzero(subject == n_tasks + text)
            if len(mine):
                numbers = document[mine].tolist()
                found[:, mine] = to_unit(self.texts.values(layer_sets, text, numbers))
        return [
            EvaluationError(
                f"layers [{layers.text(self.donors)}]: NaN in the logits; these layers do not work "
                "together"
            )
            if np.isnan(row).any()
            else as_stored(row)
            for layers, row in zip(layer_sets, found, strict=True)
        ]

    def _log_probabilities(
        self, layer_sets: Sequence[LayerSet], questions: Sequence[Question]
    ) -> NDArray[np.float64]:
        """Nats a token [layer sets, questions] of the right answers."""
        results = self.engine.likelihoods(layer_sets, questions)[:, :, 0]
        ends = np.cumsum([len(question.requests) for question in questions])
        parts = np.split(results, ends[:-1], axis=1)
        return np.array(
            [
                [
                    self.tasks.log_probability(question, part[i])
                    for question, part in zip(questions, parts, strict=True)
                ]
                for i in range(len(layer_sets))
            ]
        )
