"""The evaluator that runs the models of a study."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch
from numpy.typing import NDArray

from optlayers.checkpoints.parents import open_parents
from optlayers.checkpoints.tokenizer import load_tokenizer, tokenizer_note
from optlayers.config.fields import CostKind
from optlayers.config.metrics import to_unit
from optlayers.config.study import StudyDefinition
from optlayers.errors import EvaluationError
from optlayers.evaluation.base import Evaluator, Judged
from optlayers.evaluation.costs import layer_costs
from optlayers.evaluation.engine import Engine, nan_error
from optlayers.evaluation.questions import Question, order_questions
from optlayers.evaluation.tasks import TaskSet
from optlayers.evaluation.texts import Texts, load_reference
from optlayers.inference.stack import LayerStack
from optlayers.layerset import LayerSet, LayerSpace
from optlayers.models.hybrid import HybridConfig
from optlayers.trials.answers import Answers, as_stored
from optlayers.trials.cost import Table


class ModelEvaluator(Evaluator):
    """The models of a study on one device, with the study's questions.

    limit: use the first documents of each task, as lm_eval's own option does; then only `answers`,
    `all_questions`, `engine` and `tasks` may be used. say: receives progress and notes.
    """

    def __init__(
        self,
        definition: StudyDefinition,
        device: torch.device,
        dtype: torch.dtype,
        say: Callable[[str], None] = lambda text: None,
        limit: int | None = None,
    ) -> None:
        parents = open_parents(definition)
        tokenizer = load_tokenizer(definition, parents.base)
        say("loading tasks")
        self.tasks = TaskSet.of(definition, limit)
        say("loading models")
        reference = load_reference(definition, parents, device, dtype)
        for note in (*parents.notes, tokenizer_note(definition, parents.base, tokenizer)):
            if note:
                say(note)
        self.stack = LayerStack.load(parents, device, dtype, say=say, graft=definition.graft)
        # Answers other than right and wrong are never computed in eight bits.
        fp8 = definition.questions.fast_precision == "fp8"
        self._fast_fp8 = fp8 and limit is None and not definition.is_real_valued
        if self._fast_fp8:
            self.stack.add_eight_bit()
        self.n_layers = self.stack.n_layers
        # The exported hybrid reads as many tokens as the shortest of its parents.
        hybrid = HybridConfig.of([parent.config.to_dict() for parent in parents.all])
        self.tasks.prepare(tokenizer, hybrid)
        self.engine = Engine(self.stack, self.tasks, device)
        self.texts = Texts(
            definition, tokenizer, self.stack, device, self.tasks.max_length, limit, reference
        )
        subjects = [*self.tasks.subjects, *self.texts.subjects]
        self.order = order_questions(subjects, definition.questions)
        # Log-probabilities of different tasks are on different scales.
        self._one_scale = len(definition.tasks) == 1 and not definition.is_real_valued
        if limit is None:
            say("building prompts")
            self._questions(self.order.subject, self.order.document)

    def _questions(self, subject: NDArray[np.int64], document: NDArray[np.int64]) -> list[Question]:
        """Those of the questions that belong to tasks, not to texts."""
        of_tasks = subject < len(self.tasks.subjects)
        return self.tasks.questions(subject[of_tasks].tolist(), document[of_tasks].tolist())

    @property
    def hardware(self) -> str:
        """The name of the GPU in use; empty on a CPU."""
        device = self.engine.device
        return torch.cuda.get_device_name(device) if device.type == "cuda" else ""

    def costs(self, kind: CostKind, space: LayerSpace) -> Table:
        """What each layer costs from the base and each donor; see `costs.layer_costs`."""
        return layer_costs(kind, self.stack)

    def evaluate(
        self, layer_sets: Sequence[LayerSet], start: int, stop: int
    ) -> list[Answers | EvaluationError]:
        """The answers [stop - start] of each set, or the error that it met; see `answers`.

        Slices that end among the fast questions run in the study's fast precision.
        """
        fast = self._fast_fp8 and stop <= self.order.n_fast
        subject, document = self.order.subject[start:stop], self.order.document[start:stop]
        return self.answers(layer_sets, subject, document, fast)

    def judge(
        self, layer_sets: Sequence[LayerSet], start: int, stop: int
    ) -> Sequence[Judged | EvaluationError]:
        """`evaluate`, with log-probabilities for fast questions of a study of one task."""
        if stop > self.order.n_fast or not self._one_scale:
            return super().judge(layer_sets, start, stop)
        questions = self._questions(self.order.subject[start:stop], self.order.document[start:stop])
        return self.engine.judge(layer_sets, questions, self._fast_fp8)

    def held_out(self, layer_sets: Sequence[LayerSet]) -> list[Answers | EvaluationError]:
        """The answers [held-out questions] of each set, or the error that it met."""
        return self.answers(layer_sets, self.order.held_subject, self.order.held_document)

    def all_questions(self) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Subject and document of every question, subject by subject, in lm-eval's order."""
        documents = [subject.numbers for subject in self.order.subjects]
        subject = np.repeat(np.arange(len(documents)), [*map(len, documents)])
        return subject, np.concatenate(documents)

    def answers(
        self,
        layer_sets: Sequence[LayerSet],
        subject: NDArray[np.int64],
        document: NDArray[np.int64],
        coarse: bool = False,
    ) -> list[Answers | EvaluationError]:
        """The answers of each set to any questions, given by their subject and document [n].

        bool [n]; or float [n] in [0, 1], where a metric is more than right or wrong. coarse: see
        `Engine.judge`.
        """
        found = self.engine.answers(layer_sets, self._questions(subject, document), coarse)
        first_text = len(self.tasks.subjects)
        texts = np.unique(subject[subject >= first_text])
        if not len(texts):
            return found
        values = np.full((len(layer_sets), len(subject)), np.nan)
        for row, answers in zip(values, found, strict=True):
            if not isinstance(answers, EvaluationError):
                row[subject < first_text] = answers
        for number in texts:
            mine = subject == number
            nats = self.texts.values(layer_sets, number - first_text, document[mine])
            values[:, mine] = to_unit(nats)
        return [
            nan_error(layers, self.stack.space) if np.isnan(row).any() else as_stored(row)
            for layers, row in zip(layer_sets, values, strict=True)
        ]
