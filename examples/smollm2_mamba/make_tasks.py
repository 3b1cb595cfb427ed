"""Writes the questions of this example, `tasks/*.jsonl`; the seed fixes them.

    python examples/smollm2_mamba/make_tasks.py

Made up here: lookups in a text of 5 to 20 lines, whose wrong choices stand in the same text, and
copying. `--arc FILE --piqa FILE` takes ARC-Easy and PIQA from files of `query`, `choices` and
`gold`, as the evaluation data of llm-foundry has them (see tasks/SOURCES.md).
"""

from __future__ import annotations

import argparse
import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

TASKS = Path(__file__).resolve().parent / "tasks"
PER_TASK = 240
LINES = (5, 20)
NAMES = """Alice Anna Arthur Ben Carla Clara Daniel David Diana Edward Elena Emma Eric Frank George
Grace Hannah Harry Helen Henry Igor Irene Jack James Jane Julia Karen Kevin Laura Leo Linda Louis
Lucy Maria Mark Martha Martin Mary Michael Nina Nora Oliver Oscar Paul Peter Rachel Robert Rosa Ruth
Sam Sarah Simon Sofia Susan Thomas Tim Victor Walter""".split()  # noqa: SIM905
LIKES = """apples bananas basketball bread butter cars cats cheese chess chocolate coffee cookies
cycling dancing dogs drawing fishing flowers football games gardening golf grapes hiking history
honey horses math milk movies music oranges painting pasta photography piano pizza poetry rice
running salad science singing skiing soup stories swimming tea tennis trains""".split()  # noqa: SIM905
WORDS = """apple arm bank bird boat book box bridge brush cake camera car chair city clock cloud
coat corn cup desk door dress ear engine eye farm field fire fish flag floor flower forest garden
gate glass gold hand hat hill horse house ice island key king lake lamp leaf letter light map market
moon mountain mouse nose ocean paint paper park pen picture plant plate queen rain ring river road
roof room rope rose salt sand school sea ship shirt shoe shop silver sky snow song spoon star stone
storm street sugar sun table tiger town train tree valley wall water wheel wind window wing winter
wood wool world""".split()  # noqa: SIM905

Rng = random.Random


def _four(rng: Rng, right: str, others: list[str]) -> tuple[list[str], int]:
    """Four choices in random order: the right one and three others; where it is."""
    choices = [right, *rng.sample(sorted(set(others) - {right}), 3)]
    rng.shuffle(choices)
    return choices, choices.index(right)


def _lookup(rng: Rng, values: list[str], text: Callable[[str, str], str]) -> dict[str, Any]:
    """A list of name and value, and one name whose value is asked for."""
    n = rng.randint(*LINES)
    names, chosen = rng.sample(NAMES, n), rng.sample(values, n)
    place = rng.randrange(n)
    choices, answer = _four(rng, chosen[place], chosen)
    lines = [text(name, value) for name, value in zip(names, chosen, strict=True)]
    asked = text(names[place], "").rstrip(" .")
    return {"text": "\n".join([*lines, "", asked]), "choices": choices, "answer": answer}


def phone_book(rng: Rng) -> dict[str, Any]:
    """`Name: number` lines."""
    numbers = [str(n) for n in rng.sample(range(1000, 10000), LINES[1])]
    return _lookup(rng, numbers, lambda name, value: f"{name}: {value}")


def likes(rng: Rng) -> dict[str, Any]:
    """Who likes what."""
    return _lookup(rng, LIKES, lambda name, value: f"{name} likes {value}.")


def ages(rng: Rng) -> dict[str, Any]:
    """How old somebody is."""
    years = [str(n) for n in range(11, 99)]
    return _lookup(rng, years, lambda name, value: f"{name}'s age is {value}.")


def two_step(rng: Rng) -> dict[str, Any]:
    """Whose friend likes what: two lookups, one after the other."""
    n = rng.randint(3, 8)
    names, things = rng.sample(NAMES, 2 * n), rng.sample(LIKES, n)
    people, friends = names[:n], names[n:]
    lines = [f"{p} is a friend of {f}." for p, f in zip(people, friends, strict=True)]
    lines += [f"{f} likes {thing}." for f, thing in zip(friends, things, strict=True)]
    rng.shuffle(lines)
    place = rng.randrange(n)
    choices, answer = _four(rng, things[place], things if n > 3 else LIKES)
    asked = f"{people[place]} is a friend of {friends[place]}, who likes"
    if rng.random() < 0.5:
        asked = f"The friend of {people[place]} likes"
    return {"text": "\n".join([*lines, "", asked]), "choices": choices, "answer": answer}


def copying(rng: Rng) -> dict[str, Any]:
    """The next word of a list of words that is written a second time."""
    n = rng.randint(*LINES)
    words = rng.sample(WORDS, n)
    stop = rng.randint(2, n - 1)
    choices, answer = _four(rng, words[stop], words)
    text = " ".join([*words, "\nAgain:", *words[:stop]])
    return {"text": text.replace(" \n", "\n"), "choices": choices, "answer": answer}


KINDS: dict[str, Callable[[Rng], dict[str, Any]]] = {
    "phone_book": phone_book,
    "likes": likes,
    "ages": ages,
    "two_step": two_step,
    "copying": copying,
}


def _save(name: str, rows: list[dict[str, Any]]) -> None:
    text = "".join(json.dumps(row) + "\n" for row in rows)
    (TASKS / f"{name}.jsonl").write_text(text, encoding="utf-8")


def main() -> None:
    """Write the questions."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--arc", type=Path, help="ARC-Easy: JSONL of query, choices, gold")
    parser.add_argument("--piqa", type=Path, help="PIQA: JSONL of query, choices, gold")
    options = parser.parse_args()
    for name, make in KINDS.items():
        rng = random.Random(f"smollm2_mamba {name}")
        _save(name, [make(rng) for _ in range(PER_TASK)])
    for name, file in (("arc_easy_part", options.arc), ("piqa_part", options.piqa)):
        if file is not None:
            rows = [json.loads(line) for line in file.read_text("utf-8").split("\n") if line]
            rows = random.Random(name).sample([r for r in rows if len(r["query"]) < 300], 400)
            _save(
                name,
                [
                    {
                        "text": f"{row['query'].strip()}\nAnswer:",
                        "choices": row["choices"],
                        "answer": row["gold"],
                    }
                    for row in rows
                ],
            )


if __name__ == "__main__":
    main()
