"""Training text of the demo: questions, statements, repetitions and matching exercises.

Each kind teaches a step of the whole: matching a choice and naming its letter, looking back in a
passage, knowing a fact, and all of them together as a question.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from random import Random

from studies.demo.build.questions import (
    IN_CONTEXT,
    KNOWLEDGE,
    LETTERS,
    NAMES,
    OBJECTS,
    PLACES,
    STORIES,
    WORDS,
    DemoQuestion,
    Item,
    ask,
    ask_fact,
    between,
    block,
    draw,
    facts,
    pick,
    pool,
)

Text = tuple[str, list[tuple[int, int]]]


class _Text:
    """Text that grows piece by piece and remembers which pieces are supervised."""

    def __init__(self) -> None:
        self.parts: list[str] = []
        self.spans: list[tuple[int, int]] = []
        self.length = 0

    def add(self, context: str, answer: str) -> None:
        """Append a context and then an answer, which is supervised with the space before it."""
        start = self.length + len(context)
        self.length = start + 1 + len(answer)
        self.parts += (context, " ", answer)
        self.spans.append((start, self.length))

    def done(self) -> Text:
        """Return the text and its supervised (start, end) character spans."""
        return "".join(self.parts), self.spans


def fact_questions(rng: Random) -> _Text:
    """One to three knowledge questions of mixed subjects, with a blank line between them."""
    text = _Text()
    for i in range(between(rng, 1, 3)):
        question = ask_fact(rng, pick(rng, KNOWLEDGE), None, None)
        text.add(("\n\n" if i else "") + block(question), LETTERS[question.answer_index])
    return text


def passage_questions(rng: Random) -> _Text:
    """One passage and one or two questions about it, not alike."""
    subject = pick(rng, IN_CONTEXT)
    story = STORIES[subject](rng)
    text = _Text()
    # The first is the subject drawn, the other any subject that the passage serves.
    asked = [(subject, pick(rng, story.items[subject]))]
    others = [(name, item) for name, items in story.items.items() for item in items]
    others.remove(asked[0])
    asked += draw(rng, others, between(rng, 0, 1))
    for i, (name, item) in enumerate(asked):
        wrong = pool(name, story.items[name], item)
        question = ask(rng, None, item, wrong, None)
        lead = "\n" if i else f"{story.passage}\n"
        text.add(lead + block(question), LETTERS[question.answer_index])
    return text


def _say(rng: Random, text: _Text, items: Sequence[Item], lead: str) -> None:
    """Append items as sentences, half of the time as questions that the answer follows."""
    for item in items:
        words = item.statement if rng.random() < 0.5 else item.question
        text.add(lead + words, item.answer)
        lead = ". "
    text.parts.append(".")


def passage_statements(rng: Random) -> _Text:
    """One passage and four to six of its facts stated again, in random order."""
    story = STORIES[pick(rng, IN_CONTEXT)](rng)
    items = [item for group in story.items.values() for item in group] + story.steps
    text = _Text()
    _say(rng, text, draw(rng, items, between(rng, 4, 6)), story.passage + "\n")
    return text


def fact_statements(rng: Random) -> _Text:
    """Four to six knowledge facts of mixed subjects stated."""
    items = [pick(rng, facts(pick(rng, KNOWLEDGE)).items) for _ in range(between(rng, 4, 6))]
    text = _Text()
    _say(rng, text, items, "")
    return text


def matching(rng: Random) -> _Text:
    """Two or three questions that name their answer: only the letter has to be found."""
    text = _Text()
    for i in range(between(rng, 2, 3)):
        kind = int(rng.random() * 8)
        words = (
            (NAMES, OBJECTS, PLACES, WORDS)[kind]
            if kind < 4
            else facts(KNOWLEDGE[kind - 4]).answers
        )
        choices = draw(rng, words, 4)
        right = int(rng.random() * 4)
        question = DemoQuestion(None, f"Which one is {choices[right]}?", tuple(choices), right)
        text.add(("\n\n" if i else "") + block(question), LETTERS[right])
    return text


def repetition(rng: Random) -> _Text:
    """Eight to sixteen words said twice; every word of the second time is supervised."""
    words = draw(rng, NAMES + OBJECTS + PLACES + WORDS, between(rng, 8, 16))
    text = _Text()
    lead = "List: " + " ".join(words) + ". Again:"
    for word in words:
        text.add(lead, word)
        lead = ""
    return text


# Kind and its share of all sequences.
MIX: tuple[tuple[Callable[[Random], _Text], float], ...] = (
    (fact_questions, 0.16),
    (passage_questions, 0.34),
    (passage_statements, 0.26),
    (fact_statements, 0.06),
    (matching, 0.10),
    (repetition, 0.08),
)


def training_text(rng: Random) -> Text:
    """Make one training sequence and the character spans whose tokens are supervised.

    A span (start, end) holds one space and the answer: a letter, or a name of several words.
    """
    at = rng.random()
    for make, share in MIX[:-1]:
        at -= share
        if at < 0:
            return make(rng).done()
    return MIX[-1][0](rng).done()
