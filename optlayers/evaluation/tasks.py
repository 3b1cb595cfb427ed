"""Tasks: lm-eval's own task objects give prompts, choices, filters and metrics.

This is the only module that imports lm_eval. No task is parsed by hand: requests come from
`build_all_requests`, tokens from HFLM's own tokenizing code, and the value of a question from the
task's filters and `process_results`.
"""

from __future__ import annotations

import contextlib
import io
import logging
import os
import random
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from lm_eval.defaults import DEFAULT_OTHER_SEED, DEFAULT_RANDOM_SEED
from lm_eval.models.huggingface import HFLM
from lm_eval.models.utils import resolve_max_length
from lm_eval.tasks import TaskManager
from numpy.typing import NDArray

from optlayers.config.fields import TaskSpec
from optlayers.config.metrics import LOGPROB, to_unit
from optlayers.config.study import StudyDefinition
from optlayers.errors import TaskError, reason
from optlayers.evaluation.documents import read_documents
from optlayers.evaluation.groups import shares, unknown_members
from optlayers.evaluation.questions import Question, Request, Subject
from optlayers.evaluation.scoring import TaskScorer

logger = logging.getLogger(__name__)


class _Tokenizing(HFLM):
    """HFLM's tokenizing without a model: it records the token pairs that HFLM would run."""

    def __init__(self, tokenizer: Any, max_length: int) -> None:
        # HFLM's own constructor loads a model; only what its tokenizing methods read is set.
        self.tokenizer = tokenizer
        self.backend = "causal"
        self.add_bos_token = None
        self.custom_prefix_token_id = None
        self.enable_thinking = None
        self._max_length = max_length
        self.pairs: list[tuple[list[int], list[int]]] = []
        self._encoded: dict[tuple[str, bool | None], list[int]] = {}

    def tok_encode(
        self, string: str, add_special_tokens: bool | None = None, **kwargs: Any
    ) -> list[int]:
        """HFLM's, cached within a question: its choices share their context."""
        key = (string, add_special_tokens)
        if key not in self._encoded:
            self._encoded[key] = super().tok_encode(string, add_special_tokens, **kwargs)
        return self._encoded[key]

    def _loglikelihood_tokens(self, requests: Any, **_: Any) -> list[tuple[float, bool]]:
        self.pairs = [(context, continuation) for _, context, continuation in requests]
        return []

    def encode(self, instances: Sequence[Any]) -> tuple[Request, ...]:
        where = f"task {instances[0].task_name!r}, document {instances[0].doc_id}"
        empty = f"{where}: an answer without text, which has no likelihood; fix the task's data"
        self._encoded.clear()
        try:
            self.loglikelihood(instances, disable_tqdm=True)
        except IndexError:  # HFLM looks at the first token of what follows an empty prompt
            raise TaskError(empty) from None
        length: int = self.max_length
        for context, target in self.pairs:
            # HFLM asserts the same.
            if not context:
                raise TaskError(
                    f"{where}: its prompt is blank, and the tokenizer adds no BOS token: nothing "
                    "is before the answer; fix the task's data, or give it a description"
                )
            if not target:
                raise TaskError(empty)
            if len(target) > length:
                raise TaskError(
                    f"{where}: an answer of {len(target)} tokens, and the model scores 1 to "
                    f"{length}; choose another task or longer models"
                )
        return tuple(
            Request(tuple((context + target)[-(length + 1) :][:-1]), tuple(target))
            for context, target in self.pairs
        )


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keep the logs and progress bars of lm-eval and datasets off standard error."""
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    for name in ("lm_eval", "datasets"):
        logging.getLogger(name).setLevel(logging.ERROR)
    with contextlib.redirect_stderr(io.StringIO()):
        yield


def _manager(names: Sequence[str], task_path: str | None) -> TaskManager:
    """A task manager that knows the names: lm-eval's own index takes many seconds to build."""
    if task_path is not None:
        if not Path(task_path).is_dir():
            raise TaskError(f"task_path {task_path}: there is no such folder; fix the path")
        try:
            own = TaskManager(include_path=task_path, include_defaults=False)
        except Exception as error:
            raise TaskError(
                f"task_path {task_path}: {reason(error)}; name a folder that holds task YAML only"
            ) from None
        if not unknown_members(own, names):
            return own
    manager = TaskManager(include_path=task_path)
    for name in names:
        if name not in manager.all_tasks:
            near = [n for n in manager.all_tasks if name.lower() in n.lower()][:3]
            hint = f" (near: {', '.join(near)})" if near else ""
            where = f" and not in {task_path}" if task_path else ""
            raise TaskError(
                f"task {name!r} is not known to lm-eval{where}{hint}; see `lm_eval ls tasks`"
            )
    return manager


def check_names(names: Sequence[str], task_path: str | None) -> None:
    """Raise `TaskError` for a name that lm-eval does not know; reads no data."""
    with _quiet():
        _manager(names, task_path)


class TaskSet:
    """The leaf tasks of a study with their weights, and how to score a question.

    Raises `TaskError` for a task that lm-eval does not know or cannot load, that generates text,
    or that lacks the metric or the filter. Texts are left out: see `texts.Texts`.
    """

    def __init__(
        self, specs: Sequence[TaskSpec], task_path: str | None, limit: int | None = None
    ) -> None:
        self.limit = limit
        self.subjects: list[Subject] = []
        self._scorers: list[TaskScorer] = []
        self._counts: list[int] = []  # documents of each, before any are left out
        self._warned: set[int] = set()
        self._questions: dict[tuple[int, int], Question] = {}
        self._instances: dict[tuple[int, int], list[Any]] = {}
        self._right: dict[tuple[int, int], NDArray[np.bool_] | None] = {}
        specs = [spec for spec in specs if spec.text is None]
        with _quiet():
            manager = _manager([spec.name for spec in specs], task_path) if specs else None
            for spec in specs:
                self._add(manager, spec)

    @classmethod
    def of(cls, definition: StudyDefinition, limit: int | None = None) -> TaskSet:
        """The tasks of a study; `limit` takes the first documents of each, as lm_eval does."""
        path = definition.task_path
        return cls(definition.tasks, definition.resolve(path) if path else None, limit)

    def _add(self, manager: Any, spec: TaskSpec) -> None:
        # Tasks may shuffle while they load; lm_eval seeds before, so the same is done here.
        random.seed(DEFAULT_RANDOM_SEED)
        np.random.seed(DEFAULT_OTHER_SEED)
        try:
            loaded = manager.load([spec.name])
        except Exception as error:
            strange = ", ".join(sorted(unknown_members(manager, [spec.name])))
            hint = f"; lm-eval knows no task {strange}" if strange else ""
            raise TaskError(
                f"task {spec.name!r} could not be loaded ({reason(error)}){hint}; "
                "check its YAML, its data, and the network if the data is on a hub"
            ) from None
        found: list[tuple[Subject, int]] = []
        for name, task in loaded["tasks"].items():
            if any(subject.name == name for subject in self.subjects):
                raise TaskError(f"task {name!r} occurs twice in the study; name it once")
            if spec.num_fewshot is not None and task.get_config("num_fewshot") != 0:
                task.set_config(key="num_fewshot", value=spec.num_fewshot)
            elif task.get_config("num_fewshot") is None:
                task.set_config(key="num_fewshot", value=0)
            task.set_fewshot_seed(seed=DEFAULT_OTHER_SEED)
            self._scorers.append(TaskScorer.of(name, task, spec))
            found.append(self._subject(name, task))
        if not found:
            raise TaskError(f"task {spec.name!r} is a group without tasks; name another")
        scorers = self._scorers[-len(found) :]
        group = loaded.get("groups", {}).get(spec.name)
        weights = shares(spec, group, scorers, [size for _, size in found])
        for number, (subject, _) in enumerate(found, -len(found)):
            self.subjects[number] = replace(subject, weight=weights[number])

    def _subject(self, name: str, task: Any) -> tuple[Subject, int]:
        """Add a leaf task: its subject, without weight, and its size as lm-eval counts it."""
        count, digest = read_documents(name, task, self.limit)
        number, scorer = len(self.subjects), self._scorers[-1]
        subject = Subject(name, count, 0.0, digest=digest)
        self._counts.append(count)
        self.subjects.append(subject)
        if scorer.logprob or not scorer.own_code:
            return subject, count
        # Code of its own may leave documents out; lm-eval takes the mean of the others.
        self._build(number, list(range(count)))
        given = [scorer.given_metrics(self._instances[number, d]) for d in range(count)]
        kept = tuple(d for d, metrics in enumerate(given) if scorer.metric in metrics)
        if not kept:
            others = ", ".join(sorted(set().union(*given))) or "nothing"
            raise TaskError(f"task {name!r} gives no {scorer.metric!r}; it gives {others}")
        # The size of a task is that of the metric that most documents have.
        size = max(Counter(metric for metrics in given for metric in metrics).values())
        if len(kept) < count:
            subject = replace(subject, size=len(kept), documents=kept)
        return subject, size

    def prepare(self, tokenizer: Any, config: Any) -> None:
        """Set the tokenizer and, from a model's config, `max_length`: the tokens it reads."""
        self.max_length = int(resolve_max_length(config, tokenizer))
        self._encoder = _Tokenizing(tokenizer, self.max_length)

    def questions(self, subject: Sequence[int], document: Sequence[int]) -> list[Question]:
        """The questions of those subjects and documents, int [n] each.

        Prompts and tokens are made on first use.
        """
        wanted = list(zip(subject, document, strict=True))
        missing: dict[int, set[int]] = {}
        for s, d in wanted:
            if (s, d) not in self._instances:
                missing.setdefault(s, set()).add(d)
        for s, documents in missing.items():
            self._build(s, sorted(documents))
        for s, d in wanted:
            if (s, d) not in self._questions:
                requests = self._encoder.encode(self._instances[s, d])
                self._questions[s, d] = Question(s, d, requests)
                self._check_right(self._questions[s, d])
        return [self._questions[key] for key in wanted]

    def _build(self, subject: int, documents: list[int]) -> None:
        """Let lm-eval build the requests of some documents of one subject."""
        task = self._scorers[subject].task
        if task.config.num_fewshot:
            # Examples may be drawn document by document: only all of them give lm_eval's draws.
            documents = list(range(self._counts[subject]))
        self._try_build(subject, documents)
        for instance in task.instances:
            # lm-eval numbers the chosen documents from 0.
            instance.doc_id = documents[instance.doc_id]
            self._instances.setdefault((subject, instance.doc_id), []).append(instance)
        for document in documents:
            if (subject, document) not in self._instances:
                raise TaskError(
                    f"task {task.task_name!r}, document {document}: it has no choices; fix the "
                    "task's data, or leave the document out with process_docs"
                )
            self._instances[subject, document].sort(key=lambda instance: instance.idx)

    def _try_build(self, subject: int, documents: list[int]) -> None:
        """Build the requests of some documents; raises `TaskError`, naming the first at fault."""
        task = self._scorers[subject].task
        try:
            with _quiet():
                task.build_all_requests(samples=documents)
        except Exception as error:
            if len(documents) > 1:
                half = len(documents) // 2
                self._try_build(subject, documents[:half])
                self._try_build(subject, documents[half:])
            which = f", document {documents[0]}" if len(documents) == 1 else ""
            raise TaskError(
                f"task {task.task_name!r}{which}: its prompt could not be made "
                f"({reason(error)}); check its YAML, its data, and num_fewshot"
            ) from None

    def value(self, question: Question, results: Sequence[tuple[float, bool]]) -> float:
        """The value of a question, 0 (wrong) to 1 (right).

        results: (log-likelihood, is greedy) of each request. Raises as `TaskScorer.value` does.
        """
        scorer = self._scorers[question.subject]
        if scorer.logprob:
            return float(to_unit(self._log_probability(question, results)))
        return scorer.value(self._instances[question.subject, question.document], results)

    def winners(self, question: Question) -> NDArray[np.bool_] | None:
        """Which choices make the question right if they are the likeliest: bool [choices].

        None where the value depends on more than that; see `TaskScorer.right_choices`.
        """
        return None if self._scorers[question.subject].logprob else self._right_choices(question)

    def _right_choices(self, question: Question) -> NDArray[np.bool_] | None:
        key = (question.subject, question.document)
        if key not in self._right:
            self._right[key] = self._scorers[key[0]].right_choices(self._instances[key])
        return self._right[key]

    def _log_probability(
        self, question: Question, results: Sequence[tuple[float, bool]]
    ) -> np.float64:
        """The log-probability of the right answer, in nats a token; of several, the highest."""
        nats = np.array([result[0] for result in results])
        nats /= [len(request.targets) for request in question.requests]
        right = self._right_choices(question)
        return np.float64((nats if right is None else nats[right]).max())

    def _check_right(self, question: Question) -> None:
        """Check that a question has a right choice, where the score needs to know it."""
        scorer, right = self._scorers[question.subject], self._right_choices(question)
        if right is not None and not right.any():
            where = f"task {scorer.name!r}, document {question.document}"
            if scorer.logprob:
                raise TaskError(
                    f"{where}: none of its choices is right, and metric {LOGPROB!r} needs one; "
                    "fix the label, or choose another metric"
                )
            if question.subject not in self._warned:
                logger.warning("%s: none of its choices is right, so it counts as wrong", where)
            self._warned.add(question.subject)  # a split without labels has thousands
        elif scorer.logprob and right is None and len(question.requests) > 1:
            raise TaskError(
                f"task {scorer.name!r}: metric {LOGPROB!r} needs to know the right answer, and "
                "this task scores by its own code or filters; choose one of its metrics"
            )
