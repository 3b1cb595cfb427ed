"""Questions and training text of the demo: facts to know and passages to look things up in.

The same functions make the committed test questions (`make_tasks.py`) and the endless
training text (`train_demo_pair.py`), so a prompt in training has exactly the test's form.

All randomness goes through `Random.random`, the one method whose values Python promises to keep
from version to version: a seed gives the same questions everywhere. It is also the fastest.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from functools import cache
from itertools import pairwise
from pathlib import Path
from random import Random
from typing import NamedTuple, TypeVar

T = TypeVar("T")

TASKS_DIR = Path(__file__).resolve().parents[3] / "studies" / "demo" / "tasks"
LETTERS = ("A", "B", "C", "D")
KNOWLEDGE = ("capitals", "country_codes", "elements", "languages")
IN_CONTEXT = ("order", "recall", "reverse_recall", "two_step")
SUBJECTS = tuple(sorted(KNOWLEDGE + IN_CONTEXT))

PAIRS = 8  # person-object pairs in a passage of recall and reverse_recall
CHAINS = 5  # person-object-place chains in a passage of two_step
LIST_WORDS = 12  # words in a passage of order


def _words(text: str) -> tuple[str, ...]:
    """Split a list written as running text."""
    return tuple(text.split())


NAMES = _words(
    """Adam Alice Amir Anna Astrid Bella Boris Bruno Carla Cecil Clara Daisy David Diego Dora Edith
    Elena Emil Erik Fatima Felix Fiona Frank Gita Grace Greta Hanna Hassan Helen Hugo Ines Ivan
    Jacob Jane Jonas Julia Karim Katya Lara Leon Lily Lucas Marta Max Mia Nadia Nina Noah Olga
    Omar Oscar Paula Pedro Rosa Ruth Samir Sara Simon Sonia Tina Tom Vera Viktor Yara"""
)
OBJECTS = _words(
    """lamp drum book clock chair table spoon knife plate bottle basket hammer ladder mirror pencil
    pillow rope ring scarf shovel soap sponge stamp sword tent ticket towel trumpet umbrella vase
    violin wallet wheel whistle anchor arrow badge ball bell belt boot bowl box brush bucket button
    camera candle carpet coat coin comb compass crown cup dice doll fan flag flute fork glove guitar
    hat"""
)
PLACES = _words(
    """Oslo Lima Rome Cairo Delhi Tokyo Paris Madrid Berlin Vienna Prague Athens Dublin Lisbon
    Boston Chicago Dallas Denver Miami Seattle Austin Phoenix Toronto Montreal Havana Bogota Quito
    Santiago Lagos Nairobi Tunis Rabat Dakar Accra Moscow Kyiv Warsaw Riga Milan Naples Venice
    Geneva Zurich Munich Hamburg Lyon Nice Porto Seville Leeds Oxford York Glasgow Dubai Doha
    Mumbai Hanoi Manila Seoul Osaka Kyoto Beijing Perth Sydney"""
)
WORDS = _words(
    """red blue green yellow purple orange black white brown pink gray gold silver cat dog horse
    cow pig sheep goat duck goose hen fox wolf bear lion tiger mouse rabbit frog snake apple pear
    plum grape lemon peach cherry melon bread butter cheese honey sugar salt pepper rice river
    lake ocean mountain valley forest desert island cloud rain snow wind storm thunder sun
    moon"""
)


class DemoQuestion(NamedTuple):
    """A lettered question: the right one of the four distinct choices is at `answer_index`."""

    passage: str | None
    question: str
    choices: tuple[str, ...]
    answer_index: int


class Item(NamedTuple):
    """One thing to ask: as a question, as an unfinished statement, and the answer to both."""

    question: str
    statement: str
    answer: str


class Story(NamedTuple):
    """A made-up passage, what it can be asked per subject, and intermediate steps to state."""

    passage: str
    items: dict[str, list[Item]]
    steps: list[Item]


def draw(rng: Random, pool: Sequence[T], k: int) -> list[T]:
    """Draw k different members of the pool, in random order."""
    rest = list(pool)
    n = len(rest)
    uniform = rng.random
    for i in range(k):
        j = i + int(uniform() * (n - i))
        rest[i], rest[j] = rest[j], rest[i]
    return rest[:k]


def between(rng: Random, low: int, high: int) -> int:
    """Draw an integer from low to high, both included."""
    return low + int(rng.random() * (high - low + 1))


def pick(rng: Random, pool: Sequence[T]) -> T:
    """Draw one member of the pool."""
    return pool[int(rng.random() * len(pool))]


def knowledge_facts(tasks_dir: Path) -> dict[str, list[tuple[str, str]]]:
    """Read the (question, answer) pairs of every knowledge subject from `facts.json`."""
    raw: dict[str, list[list[str]]] = json.loads((tasks_dir / "facts.json").read_text("utf-8"))
    return {name: [(pair[0], pair[1]) for pair in raw[name]] for name in sorted(raw)}


def statement_of(question: str) -> str:
    """Turn a knowledge question into the same words as a statement that lacks its last word."""
    body = question.removesuffix("?")
    if body.startswith("What is the "):
        return f"The {body.removeprefix('What is the ')} is"
    noun, _, rest = body.removeprefix("Which ").partition(" has ")
    return f"The {noun} with {rest} is"


class _Facts(NamedTuple):
    """The facts of one knowledge subject and every answer that occurs among them."""

    items: list[Item]
    answers: list[str]


@cache
def facts(subject: str) -> _Facts:
    """Load one subject's facts once per process."""
    pairs = knowledge_facts(TASKS_DIR)[subject]
    items = [Item(question, statement_of(question), answer) for question, answer in pairs]
    return _Facts(items, sorted({answer for _, answer in pairs}))


def _pairs_story(rng: Random) -> Story:
    """Make a passage of who has what, for recall and reverse_recall."""
    people, things = draw(rng, NAMES, PAIRS), draw(rng, OBJECTS, PAIRS)
    pairs = list(zip(people, things, strict=True))
    forward = [Item(f"What does {who} have?", f"{who} has the", what) for who, what in pairs]
    back = [
        Item(f"Who has the {what}?", f"The one who has the {what} is", who) for who, what in pairs
    ]
    passage = " ".join([f"{who} has the {what}." for who, what in pairs])
    return Story(passage, {"recall": forward, "reverse_recall": back}, [])


def _chain_story(rng: Random) -> Story:
    """Make a passage of who has what and where what is, shuffled together, for two_step."""
    people, things = draw(rng, NAMES, CHAINS), draw(rng, OBJECTS, CHAINS)
    chains = list(zip(people, things, draw(rng, PLACES, CHAINS), strict=True))
    items = [
        Item(f"Where is the thing that {who} has?", f"The thing that {who} has is in", place)
        for who, _, place in chains
    ]
    steps = [Item(f"What does {who} have?", f"{who} has the", what) for who, what, _ in chains]
    steps += [Item(f"Where is the {what}?", f"The {what} is in", at) for _, what, at in chains]
    lines = [f"{step.statement} {step.answer}." for step in steps]
    return Story(" ".join(draw(rng, lines, len(lines))), {"two_step": items}, steps)


def _order_story(rng: Random) -> Story:
    """Make a passage that lists words, for order."""
    words = draw(rng, WORDS, LIST_WORDS)
    items = [
        Item(f"Which word comes after {one}?", f"After {one} comes", two)
        for one, two in pairwise(words)
    ]
    return Story(f"List: {', '.join(words)}.", {"order": items}, [])


STORIES: dict[str, Callable[[Random], Story]] = {
    "order": _order_story,
    "recall": _pairs_story,
    "reverse_recall": _pairs_story,
    "two_step": _chain_story,
}


def pool(subject: str, items: Sequence[Item], item: Item) -> list[str]:
    """List the wrong answers to an item: the other answers that its passage holds."""
    pool = [other.answer for other in items if other.answer != item.answer]
    if subject == "order":
        # The word asked about would be a wrong answer that no reader could fall for.
        asked = item.statement.split()[1]
        pool = [word for word in pool if word != asked]
    return pool


def ask(
    rng: Random, passage: str | None, item: Item, wrong: Sequence[str], position: int | None
) -> DemoQuestion:
    """Put the right answer at a position (None = any) among three of the wrong ones."""
    place = int(rng.random() * 4) if position is None else position
    choices = draw(rng, wrong, 3)
    choices.insert(place, item.answer)
    return DemoQuestion(passage, item.question, tuple(choices), place)


def ask_fact(rng: Random, subject: str, fact: int | None, position: int | None) -> DemoQuestion:
    """Ask one fact (by index; None = any), with three other answers of its subject."""
    items, answers = facts(subject)
    item = items[int(rng.random() * len(items)) if fact is None else fact]
    # Four drawn, less the right one: cheaper than a pool without it.
    wrong = [answer for answer in _few(rng, answers) if answer != item.answer][:3]
    return ask(rng, None, item, wrong, position)


def _few(rng: Random, pool: Sequence[str]) -> list[str]:
    """Draw four different members of a long pool without copying it."""
    found: list[str] = []
    while len(found) < 4:
        one = pool[int(rng.random() * len(pool))]
        if one not in found:
            found.append(one)
    return found


def make_question(
    subject: str, rng: Random, *, fact: int | None = None, position: int | None = None
) -> DemoQuestion:
    """Make one question; `fact` (a knowledge fact's index) and `position` may be prescribed."""
    if subject in KNOWLEDGE:
        return ask_fact(rng, subject, fact, position)
    story = STORIES[subject](rng)
    items = story.items[subject]
    item = pick(rng, items)
    return ask(rng, story.passage, item, pool(subject, items, item), position)


def block(question: DemoQuestion) -> str:
    """Render a question without its passage."""
    a, b, c, d = question.choices
    return f"{question.question}\nA. {a}\nB. {b}\nC. {c}\nD. {d}\nAnswer:"


def render(question: DemoQuestion) -> str:
    """Render the prompt, character for character what the lm-eval template yields."""
    text = block(question)
    return text if question.passage is None else f"{question.passage}\n{text}"
