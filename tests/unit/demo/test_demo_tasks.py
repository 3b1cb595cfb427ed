from __future__ import annotations

import json
import re
from collections import Counter
from itertools import pairwise
from random import Random
from typing import Any

import pytest

from studies.demo.build import make_tasks as maker
from studies.demo.build import questions as demo
from studies.demo.build import training_text as training

TASKS = demo.TASKS_DIR


@pytest.fixture(scope="module")
def tasks() -> dict[str, Any]:
    from lm_eval.tasks import TaskManager

    loaded: Any = TaskManager(include_path=str(TASKS), include_defaults=False).load(["demo"])
    assert list(loaded["groups"]) == ["demo"]
    return {name.removeprefix("demo_"): task for name, task in loaded["tasks"].items()}


def committed(subject: str) -> list[dict[str, Any]]:
    lines = (TASKS / f"{subject}.jsonl").read_text("utf-8").splitlines()
    return [json.loads(line) for line in lines]


def as_question(doc: dict[str, Any]) -> demo.DemoQuestion:
    return demo.DemoQuestion(doc["passage"], doc["question"], tuple(doc["choices"]), doc["answer"])


def derive(subject: str, passage: str, question: str) -> list[str]:
    """Answer a question from its passage alone, by other code than made it; all that fit."""
    has = re.findall(r"(\w+) has the (\w+)\.", passage)
    where = re.findall(r"The (\w+) is in (\w+)\.", passage)
    words = re.findall(r"\w+", passage.removeprefix("List:"))
    patterns = {
        "recall": r"What does (\w+) have\?",
        "reverse_recall": r"Who has the (\w+)\?",
        "two_step": r"Where is the thing that (\w+) has\?",
        "order": r"Which word comes after (\w+)\?",
    }
    match = re.fullmatch(patterns[subject], question)
    assert match is not None
    asked = match[1]
    if subject == "recall":
        return [what for who, what in has if who == asked]
    if subject == "reverse_recall":
        return [who for who, what in has if what == asked]
    if subject == "two_step":
        return [at for who, what in has if who == asked for thing, at in where if thing == what]
    return [two for one, two in pairwise(words) if one == asked]


def test_the_group_holds_the_eight_subjects(tasks: dict[str, Any]) -> None:
    assert tuple(sorted(tasks)) == demo.SUBJECTS
    assert sum(file.stat().st_size for file in TASKS.iterdir() if file.is_file()) < 1_000_000


@pytest.mark.parametrize("subject", demo.SUBJECTS)
def test_documents_are_sound(tasks: dict[str, Any], subject: str) -> None:
    docs = list(tasks[subject].eval_docs)
    assert len(docs) >= 150
    assert all(len(doc["choices"]) == 4 == len(set(doc["choices"])) for doc in docs)
    prompts = {demo.render(as_question(doc)) for doc in docs}
    assert len(prompts) == len(docs)
    letters = Counter(doc["answer"] for doc in docs)
    assert all(0.15 <= letters[i] / len(docs) <= 0.35 for i in range(4))


@pytest.mark.parametrize("subject", demo.SUBJECTS)
def test_lm_eval_renders_the_training_prompt(tasks: dict[str, Any], subject: str) -> None:
    task = tasks[subject]
    for doc in task.eval_docs:
        prompt = demo.render(as_question(doc))
        assert task.fewshot_context(doc, num_fewshot=0) == prompt
        assert task.doc_to_choice(doc) == list(demo.LETTERS)
        assert task.doc_to_target(doc) == doc["answer"]
    requests = task.construct_requests(task.eval_docs[0], prompt, metadata=("t", 0, 1))
    assert [request.args[1] for request in requests] == [" A", " B", " C", " D"]


@pytest.mark.parametrize("subject", demo.IN_CONTEXT)
def test_answers_follow_from_the_passage(subject: str) -> None:
    for doc in committed(subject):
        assert derive(subject, doc["passage"], doc["question"]) == [doc["choices"][doc["answer"]]]
        assert all(re.search(rf"\b{word}\b", doc["passage"]) for word in doc["choices"])


@pytest.mark.parametrize("subject", demo.KNOWLEDGE)
def test_facts_are_unambiguous(subject: str) -> None:
    facts = demo.knowledge_facts(TASKS)[subject]
    assert 150 <= len(facts) <= 240
    answers = dict(facts)
    assert len(answers) == len(facts)
    for question, answer in facts:
        assert (question + answer).isascii()
        assert len(answer.split()) <= 3
    # Two questions may share an answer, but no question has two: no other choice is right.
    for doc in committed(subject):
        assert doc["passage"] is None
        assert [c for c in doc["choices"] if c == answers[doc["question"]]] == [
            doc["choices"][doc["answer"]]
        ]
        assert set(doc["choices"]) <= set(answers.values())


@pytest.mark.parametrize(
    ("subject", "question", "answer"),
    [
        ("capitals", "What is the capital of France?", "Paris"),
        ("capitals", "What is the capital of the Netherlands?", "Amsterdam"),
        ("country_codes", "Which country has the code DE?", "Germany"),
        ("elements", "Which element has the symbol Fe?", "Iron"),
        ("elements", "Which element has atomic number 79?", "Gold"),
        ("languages", "Which language has the code sw?", "Swahili"),
    ],
)
def test_facts_are_true(subject: str, question: str, answer: str) -> None:
    assert dict(demo.knowledge_facts(TASKS)[subject])[question] == answer


def test_statements_use_the_words_of_the_question() -> None:
    assert demo.statement_of("What is the capital of France?") == "The capital of France is"
    assert demo.statement_of("Which element has the symbol Fe?") == (
        "The element with the symbol Fe is"
    )


@pytest.mark.parametrize("subject", demo.SUBJECTS)
def test_the_seed_gives_the_committed_questions(subject: str) -> None:
    assert maker.subject_documents(subject) == committed(subject)


def test_word_lists_do_not_overlap() -> None:
    words = demo.NAMES + demo.OBJECTS + demo.PLACES + demo.WORDS
    assert len(words) == len(set(words)) == 256


def blocks_of(text: str) -> list[tuple[str, ...]]:
    return re.findall(r"([^\n]+)\nA\. (.+)\nB\. (.+)\nC\. (.+)\nD\. (.+)\nAnswer: (.)", text)


def subject_of(question: str) -> str:
    starts = {"What does": "recall", "Who": "reverse_recall", "Where": "two_step"}
    return next((s for start, s in starts.items() if question.startswith(start)), "order")


def test_training_questions_have_right_answers() -> None:
    rng = Random(1)
    facts = {q: a for group in demo.knowledge_facts(TASKS).values() for q, a in group}
    for make in (training.fact_questions, training.passage_questions, training.matching):
        for _ in range(500):
            text, spans = make(rng).done()
            blocks = blocks_of(text)
            assert len(blocks) == len(spans) > 0
            for (question, *choices, letter), (start, end) in zip(blocks, spans, strict=True):
                assert text[start:end] == f" {letter}"
                right = choices["ABCD".index(letter)]
                assert choices.count(right) == 1
                if make is training.matching:
                    assert question == f"Which one is {right}?"
                elif make is training.fact_questions:
                    assert facts[question] == right
                else:
                    passage = text.split("\n")[0]
                    assert derive(subject_of(question), passage, question) == [right]


def test_training_statements_are_true() -> None:
    rng = Random(2)
    facts = {q: a for group in demo.knowledge_facts(TASKS).values() for q, a in group}
    facts |= {demo.statement_of(question): answer for question, answer in list(facts.items())}
    for _ in range(500):
        text, spans = training.fact_statements(rng).done()
        begin = 0
        for start, end in spans:
            assert facts[text[begin:start]] == text[start + 1 : end]
            begin = end + len(". ")
        text, spans = training.passage_statements(rng).done()
        passage = text.split("\n")[0]
        assert 4 <= len(spans) <= 6
        assert all(re.search(rf"\b{text[a + 1 : b]}\b", passage) for a, b in spans)


def test_repetitions_supervise_every_word_of_the_second_time() -> None:
    rng = Random(4)
    for _ in range(200):
        text, spans = training.repetition(rng).done()
        first = text.removeprefix("List: ").split(". Again:")[0].split()
        assert [text[a + 1 : b] for a, b in spans] == first


def test_the_mix_covers_every_kind() -> None:
    assert sum(share for _, share in training.MIX) == pytest.approx(1.0)
    rng = Random(5)
    texts = [training.training_text(rng)[0] for _ in range(2000)]
    lettered = sum("Answer:" in text for text in texts) / 2000
    shares = {make.__name__: share for make, share in training.MIX}
    expected = shares["fact_questions"] + shares["passage_questions"] + shares["matching"]
    assert abs(lettered - expected) < 0.05


def test_training_repeats_no_test_passage() -> None:
    rng = Random(3)
    held_out = {doc["passage"] for name in demo.IN_CONTEXT for doc in committed(name)}
    seen = {training.training_text(rng)[0].split("\n")[0] for _ in range(5000)}
    assert not held_out & seen
