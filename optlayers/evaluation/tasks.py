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
from collections.abc import Iterator, Sequence
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
from optlayers.evaluation.questions import Question, Request, Subject
from optlayers.evaluation.scoring import TaskScorer


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
        self._encoded.clear()
        self.loglikelihood(instances, disable_tqdm=True)
        length: int = self.max_length
        for _, target in self.pairs:
            if not 0 < len(target) <= length:
                raise TaskError(
                    f"task {instances[0].task_name!r}: a continuation has {len(target)} tokens, "
                    f"and the model scores 1 to {length}; choose another task or longer models"
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
        if set(names) <= set(own.all_tasks):
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
    """Raise `TaskError` where lm-eval knows no task of a name; no data is read."""
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
        specs = [spec for spec in specs if spec.text is None]
        with _quiet():
            manager = _manager([spec.name for spec in specs], task_path) if specs else None
            for spec in specs:
                self._add(manager, spec)
        self._questions: dict[tuple[int, int], Question] = {}
        self._instances: dict[tuple[int, int], list[Any]] = {}
        self._right: dict[tuple[int, int], NDArray[np.bool_] | None] = {}

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
            raise TaskError(
                f"task {spec.name!r} could not be loaded ({reason(error)}); "
                "check its YAML, its data, and the network if the data is on a hub"
            ) from None
        scorers, sizes = [], []
        for name, task in loaded["tasks"].items():
            scorers.append(TaskScorer.of(name, task, spec))
            if spec.num_fewshot is not None and task.get_config("num_fewshot") != 0:
                task.set_config(key="num_fewshot", value=spec.num_fewshot)
            elif task.get_config("num_fewshot") is None:
                task.set_config(key="num_fewshot", value=0)
            task.set_fewshot_seed(seed=DEFAULT_OTHER_SEED)
            sizes.append(self._documents(name, task))
        if not scorers:
            raise TaskError(f"task {spec.name!r} is a group without tasks; name another")
        by_size = scorers[0].weighted_by_size(loaded.get("groups", {}).get(spec.name))
        for scorer, size in zip(scorers, sizes, strict=True):
            if any(subject.name == scorer.name for subject in self.subjects):
                raise TaskError(f"task {scorer.name!r} occurs twice in the study; name it once")
            share = size / sum(sizes) if by_size else 1.0 / len(sizes)
            self.subjects.append(Subject(scorer.name, size, spec.weight * share))
            self._scorers.append(scorer)

    def _documents(self, name: str, task: Any) -> int:
        """The number of a task's documents, at most `limit`; raises `TaskError` for none."""
        try:
            count = len(task.eval_docs)
        except Exception as error:
            raise TaskError(
                f"task {name!r}: its documents cannot be read ({reason(error)}); check its data"
            ) from None
        if count == 0:
            raise TaskError(f"task {name!r} has no documents; check its data and its splits")
        return count if self.limit is None else min(count, self.limit)

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
        return [self._questions[key] for key in wanted]

    def _build(self, subject: int, documents: list[int]) -> None:
        """Let lm-eval build the requests of some documents of one subject."""
        task = self._scorers[subject].task
        if task.config.num_fewshot:
            # Examples may be drawn document by document: only all of them give lm_eval's draws.
            documents = list(range(self.subjects[subject].size))
        try:
            with _quiet():
                task.build_all_requests(samples=documents)
        except Exception as error:
            raise TaskError(
                f"task {self.subjects[subject].name!r}: its prompts could not be made "
                f"({reason(error)}); check its YAML, its data, and num_fewshot"
            ) from None
        for instance in task.instances:
            # lm-eval numbers the chosen documents from 0.
            key = (subject, documents[instance.doc_id])
            self._instances.setdefault(key, []).append(instance)
        for document in documents:
            self._instances[subject, document].sort(key=lambda instance: instance.idx)

    def value(self, question: Question, results: Sequence[tuple[float, bool]]) -> float:
        """The value of a question, 0 (wrong) to 1 (right).

        results: (log-likelihood, is greedy) of each request. Raises as `TaskScorer.value` does.
        """
        scorer = self._scorers[question.subject]
        if scorer.logprob:
            return float(to_unit(self._log_probability(question, results)))
        return scorer.value(self._instances[question.subject, question.document], results)

    def winners(self, question: Question) -> NDArray[np.bool_] | None:
        """Which choice, being the likeliest, makes the question right: bool [choices].

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
        scorer = self._scorers[question.subject]
        if scorer.task.OUTPUT_TYPE == "loglikelihood":
            return np.float64(nats[0])
        right = self._right_choices(question)
        if right is None or not right.any():
            raise TaskError(
                f"task {scorer.name!r}: metric {LOGPROB!r} needs to know the right answer, and "
                "this task scores by code or filters of its own; choose one of its metrics"
            )
        return np.float64(nats[right].max())
