"""Tasks: lm-eval's own task objects give prompts, choices, filters and metrics.

This is the only module that imports lm_eval. No task is parsed by hand: requests come from
`build_all_requests`, tokens from HFLM's own tokenising code, and the per-question result from
the task's filters and `process_results`.
"""

from __future__ import annotations

import contextlib
import logging
import os
import random
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from lm_eval.defaults import DEFAULT_OTHER_SEED, DEFAULT_RANDOM_SEED
from lm_eval.models.huggingface import HFLM
from lm_eval.models.utils import resolve_max_length
from lm_eval.tasks import TaskManager
from numpy.typing import NDArray

from optlayers.config.metrics import LOGPROB
from optlayers.config.study import StudyDefinition, TaskSpec
from optlayers.errors import TaskError
from optlayers.evaluation.questions import Question, Request, Subject
from optlayers.evaluation.scoring import Judge, why


class _Tokens(HFLM):
    """HFLM's tokenising, without a model: it records the token pairs that HFLM would run."""

    def __init__(self, tokenizer: Any, max_length: int) -> None:
        # HFLM's own constructor loads a model; only what its tokenising methods read is set.
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
        """HFLM's, remembered within a question: its choices share their context."""
        key = (string, add_special_tokens)
        if key not in self._encoded:
            self._encoded[key] = super().tok_encode(string, add_special_tokens, **kwargs)
        return self._encoded[key]

    def _loglikelihood_tokens(self, requests: Any, **_: Any) -> list[tuple[float, bool]]:
        self.pairs = [(context, continuation) for _, context, continuation in requests]
        return []

    def encode(self, instances: Sequence[Any]) -> list[Request]:
        self._encoded.clear()
        self.loglikelihood(instances, disable_tqdm=True)
        length: int = self.max_length
        for _, target in self.pairs:
            if not 0 < len(target) <= length:
                raise TaskError(
                    f"task {instances[0].task_name!r}: a continuation has {len(target)} tokens, "
                    f"and the model scores 1 to {length}; choose another task or longer models"
                )
        return [
            Request(tuple((context + target)[-(length + 1) :][:-1]), tuple(target))
            for context, target in self.pairs
        ]


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """lm-eval and datasets talk on standard error while they load; keep their warnings away."""
    loggers = [logging.getLogger(name) for name in ("lm_eval", "datasets")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        with (
            Path(os.devnull).open("w", encoding="utf-8") as nowhere,
            contextlib.redirect_stderr(nowhere),
        ):
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)


def _manager(names: Sequence[str], task_path: str | None) -> TaskManager:
    """A task manager that knows the names: lm-eval's own index takes many seconds to build."""
    if task_path is not None:
        if not Path(task_path).is_dir():
            raise TaskError(f"task_path {task_path}: there is no such folder; mend it")
        try:
            own = TaskManager(include_path=task_path, include_defaults=False)
        except Exception as error:
            raise TaskError(
                f"task_path {task_path}: {why(error)}; name a folder with the YAML of tasks alone"
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


class TaskSet:
    """The leaf tasks of a study with their weights, and how to score a question.

    Raises `TaskError` for a task that lm-eval does not know or cannot load, that generates text,
    or that lacks the metric or the filter.
    """

    def __init__(
        self, specs: Sequence[TaskSpec], task_path: str | None, limit: int | None = None
    ) -> None:
        self.limit = limit
        self.subjects: list[Subject] = []
        self._judges: list[Judge] = []
        self.by_logprob: list[bool] = []
        self._spec_of: list[int] = []
        # Texts are questions of another kind (`texts.py`).
        mine = [(number, spec) for number, spec in enumerate(specs) if spec.text is None]
        with _quiet():
            manager = _manager([spec.name for _, spec in mine], task_path) if mine else None
            for number, spec in mine:
                self._add(manager, number, spec)
        self._questions: dict[tuple[int, int], Question] = {}
        self._instances: dict[tuple[int, int], list[Any]] = {}
        self._winners: dict[tuple[int, int], NDArray[np.bool_] | None] = {}
        self._encoder: _Tokens

    @classmethod
    def of(cls, definition: StudyDefinition, limit: int | None = None) -> TaskSet:
        """The tasks of a study; `limit` takes the first documents of each, as lm_eval does."""
        path = definition.task_path
        return cls(definition.tasks, definition.resolve(path) if path else None, limit)

    def _add(self, manager: Any, number: int, spec: TaskSpec) -> None:
        # Tasks may shuffle while they load; lm_eval seeds before, so the same is done here.
        random.seed(DEFAULT_RANDOM_SEED)
        np.random.seed(DEFAULT_OTHER_SEED)
        try:
            loaded = manager.load([spec.name])
        except Exception as error:
            raise TaskError(
                f"task {spec.name!r} could not be loaded ({why(error)}); "
                "check its YAML, its data, and the network if the data lie on a hub"
            ) from None
        judges, sizes = [], []
        for name, task in loaded["tasks"].items():
            judges.append(Judge.of(name, task, spec))
            if spec.num_fewshot is not None and task.get_config("num_fewshot") != 0:
                task.set_config(key="num_fewshot", value=spec.num_fewshot)
            elif task.get_config("num_fewshot") is None:
                task.set_config(key="num_fewshot", value=0)
            task.set_fewshot_seed(seed=DEFAULT_OTHER_SEED)
            size = self._documents(name, task)
            sizes.append(min(size, self.limit) if self.limit is not None else size)
        if not judges:
            raise TaskError(f"task {spec.name!r} is a group without a task; name another")
        by_size = judges[0].weighted_by_size(loaded.get("groups", {}).get(spec.name))
        total = sum(sizes)
        for judge, size in zip(judges, sizes, strict=True):
            share = size / total if by_size else 1.0 / len(sizes)
            if any(subject.name == judge.name for subject in self.subjects):
                raise TaskError(f"task {judge.name!r} occurs twice in the study; name it once")
            self.subjects.append(Subject(judge.name, size, spec.weight * share))
            self._judges.append(judge)
            self.by_logprob.append(spec.metric == LOGPROB)
            self._spec_of.append(number)

    @staticmethod
    def _documents(name: str, task: Any) -> int:
        """The number of a task's documents; raises `TaskError` where there are none."""
        try:
            count = len(task.eval_docs)
        except Exception as error:
            raise TaskError(
                f"task {name!r}: its documents cannot be read ({why(error)}); check its data"
            ) from None
        if count == 0:
            raise TaskError(f"task {name!r} has no document; check its data and its splits")
        return count

    def prepare(self, tokenizer: Any, config: Any) -> None:
        """Set the tokenizer; `config` is the model's, for its length."""
        self._encoder = _Tokens(tokenizer, resolve_max_length(config, tokenizer))

    @property
    def max_length(self) -> int:
        """The most tokens that the models read, once they are prepared for."""
        return int(self._encoder.max_length)

    def questions(self, subject: Sequence[int], document: Sequence[int]) -> list[Question]:
        """The questions of those subjects and documents, int [n] each.

        Prompts and tokens are made when they are first asked for.
        """
        wanted = [(int(s), int(d)) for s, d in zip(subject, document, strict=True)]
        missing: dict[int, set[int]] = {}
        for s, d in wanted:
            if (s, d) not in self._instances:
                missing.setdefault(s, set()).add(d)
        for s, documents in missing.items():
            self._build(s, sorted(documents))
        return [self._question(s, d) for s, d in wanted]

    def _build(self, subject: int, documents: list[int]) -> None:
        """Let lm-eval build the requests of some documents of one subject."""
        task = self._judges[subject].task
        if task.config.num_fewshot:
            # Examples may be drawn document by document: only the whole gives lm_eval's draws.
            documents = list(range(self.subjects[subject].size))
        try:
            with _quiet():
                task.build_all_requests(samples=documents)
        except Exception as error:
            raise TaskError(
                f"task {self.subjects[subject].name!r}: its prompts could not be made "
                f"({why(error)}); check its YAML, its data, and num_fewshot"
            ) from None
        for instance in task.instances:
            # lm-eval numbers the chosen documents anew.
            key = (subject, documents[instance.doc_id])
            self._instances.setdefault(key, []).append(instance)
        for document in documents:
            self._instances[subject, document].sort(key=lambda instance: instance.idx)

    def _question(self, subject: int, document: int) -> Question:
        key = (subject, document)
        if key not in self._questions:
            requests = self._encoder.encode(self._instances[key])
            self._questions[key] = Question(subject, document, tuple(requests))
        return self._questions[key]

    def in_order(self) -> list[Question]:
        """All questions, subject by subject, in lm-eval's order."""
        pairs = [(s, d) for s, subject in enumerate(self.subjects) for d in range(subject.size)]
        return self.questions([s for s, _ in pairs], [d for _, d in pairs])

    def value(self, question: Question, results: Sequence[tuple[float, bool]]) -> float:
        """What the question counts, 0 (wrong) to 1 (right).

        results: (log-likelihood, is greedy) of each request. Raises as `Judge.value` does.
        """
        instances = self._instances[question.subject, question.document]
        return self._judges[question.subject].value(instances, results)

    def winners(self, question: Question) -> NDArray[np.bool_] | None:
        """Which choice, being the likeliest, makes the question right: bool [choices].

        None where the task looks at more than that: another metric, filters or metric code of
        its own, a normalised likelihood.
        """
        key = (question.subject, question.document)
        if key not in self._winners:
            self._winners[key] = self._find_winners(question)
        return self._winners[key]

    def _find_winners(self, question: Question) -> NDArray[np.bool_] | None:
        if not self._judges[question.subject].by_likeliest:
            return None
        count = len(question.requests)
        won = np.zeros(count, dtype=np.bool_)
        for choice in range(count):
            results = [(0.0, True) if i == choice else (-1.0, False) for i in range(count)]
            won[choice] = self.value(question, results) == 1.0
        return won

    def log_probability(self, question: Question, likelihoods: NDArray[np.float64]) -> float:
        """That of the right answer, in nats a token; likelihoods [requests] are sums of tokens.

        Where several answers are right the best of them counts. Raises `TaskError` where the task
        does not say which is right.
        """
        lengths = np.array([len(request.targets) for request in question.requests])
        nats = likelihoods / lengths
        if self._judges[question.subject].task.OUTPUT_TYPE == "loglikelihood":
            return float(nats[0])
        won = self.winners(question)
        if won is None or not won.any():
            name = self.subjects[question.subject].name
            raise TaskError(
                f"task {name!r}: metric {LOGPROB!r} needs to know the right answer, and this task "
                "scores by code or filters of its own; choose one of its metrics"
            )
        return float(nats[won].max())


def hush() -> None:
    """Keep lm-eval's and datasets' progress bars off the screen for good."""
    os.environ.setdefault("HF_DATASETS_DISABLE_PROGRESS_BARS", "1")
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    logging.getLogger("lm_eval").setLevel(logging.ERROR)
    sys.stderr.flush()


def check_names(names: Sequence[str], task_path: str | None) -> None:
    """Raise `TaskError` where lm-eval knows no task of a name; no data is read."""
    hush()
    with _quiet():
        _manager(names, task_path)
