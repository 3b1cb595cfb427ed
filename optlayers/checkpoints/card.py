"""The model card of an exported checkpoint, and the other documents that go along."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from typing import Any

import yaml

from optlayers.checkpoints.hashes import INFO
from optlayers.checkpoints.info import checkpoint_info
from optlayers.checkpoints.licence import licence_texts
from optlayers.checkpoints.parents import Parents
from optlayers.checkpoints.reader import hash_ahead
from optlayers.config.graft import Graft
from optlayers.config.study import StudyDefinition
from optlayers.layerset import LayerSet

CARD = """\
---
{front}---

# {title}

A hybrid language model: {base}, in which {which} of its {depth} {parts} {come} from {donor},
{order}. Embedding, final norm and head are those of {base}; nothing was trained. Made with
optlayers {version}.

| | |
|---|---|
| base | {base} ({base_type}{base_revision}) |
{donor_rows}
| {short} from the donor{s} | {layers} |
| weights | {dtype} |

## Score

{score}

## Use

```python
from transformers import AutoModelForCausalLM, AutoTokenizer

model = AutoModelForCausalLM.from_pretrained(FOLDER, trust_remote_code=True)
tokenizer = AutoTokenizer.from_pretrained(FOLDER, trust_remote_code=True)
```

`trust_remote_code` runs the Python files of this folder, starting with `hybrid.py`. After
`import optlayers.models` it is not needed. The model needs torch and transformers 5.17 or newer.
The tokenizer and its chat template are {whose}. `AutoTokenizer` reads `config.json` first and asks
whether to run the code named there; `trust_remote_code=False` loads the tokenizer without it.

## Licences

Both parts keep theirs, and both hold for the whole.

| part | licence |
|---|---|
| base, {base} | {base_licence} |
{donor_licences}

{licence_files}`checkpoint_info.json` holds the same for machines, with the SHA-256 of
every source file and of every file here, which `optlayers verify` compares.
"""


def documents(
    definition: StudyDefinition,
    parents: Parents,
    layers: LayerSet,
    score: dict[str, Any] | None,
    dtype: str | None = None,
) -> Callable[[Mapping[str, str]], dict[str, str]]:
    """What makes the documents of a checkpoint, text by file name, of the SHA-256 of its files.

    These are `README.md`, `checkpoint_info.json` and the licence files of both parts. The sources
    are hashed from now on, beside what else is done.
    """
    wait = hash_ahead(*parents.all)
    several = len(parents.donors) > 1
    names = [f"donor-{name}" for name in definition.donor_names] if several else ["donor"]

    def make(files: Mapping[str, str]) -> dict[str, str]:
        wait()
        licences = licence_texts(parents.base.folder, "base")
        for name, checkpoint in zip(names, parents.donors, strict=True):
            licences |= licence_texts(checkpoint.folder, name)
        own = {name: hashlib.sha256(text.encode()).hexdigest() for name, text in licences.items()}
        info = checkpoint_info(definition, parents, layers, score, dtype, {**files, **own})
        return {
            INFO: json.dumps(info, indent=2) + "\n",
            "README.md": model_card(info, sorted(licences)),
            **licences,
        }

    return make


def model_card(info: dict[str, Any], licence_files: list[str]) -> str:
    """The model card, markdown with a YAML head as the Hugging Face hub reads it."""
    base, layers = info["base"], info["layers"]
    # Each donor with what it is called here.
    donors = [(f"donor {d['name']}", d) for d in info["donors"]] if "donors" in info else []
    donors = donors or [("donor", info["donor"])]
    several = len(donors) > 1
    parents = [part["model"] for part in (base, *(d for _, d in donors)) if part["on_hub"]]
    front: dict[str, Any] = {
        "library_name": "transformers",
        "pipeline_tag": "text-generation",
        "tags": ["hybrid", "merge", "optlayers"],
        # Two licences hold at once, which the hub has no word for.
        "license": "other",
        "license_name": "see-both-parts",
    }
    if parents:
        front |= {"base_model": parents, "base_model_relation": "merge"}
    models = " and ".join(_name(donor) for _, donor in donors)
    shown = ", ".join(map(str, layers)) or "none"
    graft = Graft(info["swap"], (info["donor_map"],))
    if several:
        mapped = any(donor["donor_map"] for _, donor in donors)
        order = "by maps of indices" if mapped else "index for index"
    else:
        order = graft.order(LayerSet(tuple(layers)))
    files = ", ".join(f"`{name}`" for name in licence_files)
    return CARD.format(
        front=yaml.safe_dump(front, sort_keys=False),
        title=f"{_name(base)} with {graft.parts} {shown} of {models}",
        base=base["model"],
        donor=" and ".join(_called(name, d) if several else d["model"] for name, d in donors),
        s="s" if several else "",
        donor_rows="\n".join(
            f"| {name} | {d['model']} ({d['model_type']}{_revision(d)}) |" for name, d in donors
        ),
        donor_licences="\n".join(f"| {name}, {d['model']} | {_licence(d)} |" for name, d in donors),
        whose=f"those of {donors[0][0]}" if several else "the donor's",
        which=len(layers) or "none",
        come="comes" if len(layers) == 1 else "come",
        depth=info["depth"],
        parts=("decoder " if graft.swap == "layer" else "") + graft.parts,
        short=graft.parts,
        order=order,
        version=info["versions"]["optlayers"],
        base_type=base["model_type"],
        base_revision=_revision(base),
        layers=shown,
        dtype=f"converted to {info['dtype']}"
        if info["dtype"]
        else "as in the sources, bit for bit",
        score=_score(info),
        base_licence=_licence(base),
        licence_files=f"Their texts lie beside this file: {files}. " if files else "",
    )


def _called(name: str, part: dict[str, Any]) -> str:
    """A donor with its name in layer sets."""
    return f"{part['model']} ({name.removeprefix('donor ')})"


def _name(part: dict[str, Any]) -> str:
    return str(part["model"]).rpartition("/")[2]


def _revision(part: dict[str, Any]) -> str:
    return f", revision {part['revision']}" if part["revision"] else ""


def _licence(part: dict[str, Any]) -> str:
    return part["licence"] or "its folder names none; see where the model comes from"


def _score(info: dict[str, Any]) -> str:
    score = info["score"]
    tasks = " and ".join(
        f"{task['name']} ({task['metric']}, {_shots(task)}, weight {task['weight']:g})"
        for task in info["study"]["tasks"]
    )
    if score is None:
        return f"This layer set was not evaluated. The study {info['study']['name']} is on {tasks}."
    lines = [
        "| questions | score | 95 % interval |",
        "|---|---|---|",
        _line(f"{score['questions']} of the search ({score['fidelity']} fidelity)", score),
    ]
    held = score.get("held_out")
    if held:
        lines.append(_line(f"{held['questions']} held out, which no decision has seen", held))
    text = (
        f"Measured in the study {info['study']['name']} with the prompts, choices and metrics of "
        f"lm-eval {info['versions']['lm_eval'] or ''} on {tasks}"
        f"{', on ' + score['device'] if score.get('device') else ''}. The questions are a fixed, "
        "shuffled sample of every subject, and each subject has the weight that lm-eval gives it. "
        "The interval is for the choice of the questions."
    )
    if score.get("evaluated_sets", 0) > 1:
        text += (
            f" {score['evaluated_sets']} layer sets were evaluated on questions of the search, "
            "and the best of many flatters: the questions chose it."
        )
    return "\n".join([*lines, "", text])


def _shots(task: dict[str, Any]) -> str:
    shots = task["num_fewshot"]
    return "the task's own number of examples" if shots is None else f"{shots}-shot"


def _line(what: str, score: dict[str, Any]) -> str:
    low, high = 100 * score["ci_low"], 100 * score["ci_high"]
    return f"| {what} | {100 * score['score']:.2f} % | {low:.1f} to {high:.1f} |"
