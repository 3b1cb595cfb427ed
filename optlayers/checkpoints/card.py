"""The documents of an exported checkpoint: `checkpoint_info.json`, model card, licence files."""

from __future__ import annotations

import contextlib
import hashlib
import json
import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import yaml

from optlayers.checkpoints.files import INFO
from optlayers.checkpoints.info import checkpoint_info
from optlayers.checkpoints.parents import Parents
from optlayers.checkpoints.reader import Checkpoint
from optlayers.config.graft import Graft
from optlayers.config.study import StudyDefinition
from optlayers.layerset import LayerSet

LICENCES = ("LICENSE*", "LICENCE*", "USE_POLICY*", "NOTICE*")

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
The tokenizer and its chat template are those of {whose}. `AutoTokenizer` reads `config.json`
first and asks whether to run the code named there; `trust_remote_code=False` loads the tokenizer
without it.

## Licences

The licences of all parts hold for the whole.

| part | licence |
|---|---|
| base, {base} | {base_licence} |
{donor_licences}

{licence_files}`checkpoint_info.json` holds the same for programs, with the SHA-256 of
every source file and of every file here, which `optlayers verify` compares.
"""


def documents(
    definition: StudyDefinition,
    parents: Parents,
    layers: LayerSet,
    score: dict[str, Any] | None,
    dtype: str | None = None,
) -> Callable[[Mapping[str, str]], dict[str, str]]:
    """A function that makes the documents of a checkpoint, text by file name.

    Its argument is the SHA-256 of the other files by name. Hashing of the sources starts at once,
    in a thread.
    """
    wait = hash_ahead(*parents.all)
    several = len(parents.donors) > 1
    names = [f"donor-{name}" for name in definition.donor_names] if several else ["donor"]

    def make(files: Mapping[str, str]) -> dict[str, str]:
        wait()
        texts: dict[str, str] = {}
        for name, parent in zip(("base", *names), parents.all, strict=True):
            texts |= licence_texts(parent.folder, name)
        own = {name: hashlib.sha256(text.encode()).hexdigest() for name, text in texts.items()}
        info = checkpoint_info(definition, parents, layers, score, dtype, {**files, **own})
        return {
            INFO: json.dumps(info, indent=2) + "\n",
            "README.md": model_card(info, sorted(texts)),
            **texts,
        }

    return make


def hash_ahead(*checkpoints: Checkpoint) -> Callable[[], None]:
    """Start hashing checkpoints in a thread; returns a function that waits for it."""

    def hash_all() -> None:
        # An error here is raised again where the hash is used.
        with contextlib.suppress(Exception):
            for checkpoint in checkpoints:
                _ = checkpoint.sha256

    hashing = threading.Thread(target=hash_all, daemon=True)
    hashing.start()
    return hashing.join


def licence_texts(folder: Path, part: str) -> dict[str, str]:
    """The licence files of a folder, by their names in the export: `base-LICENSE`."""
    return {
        f"{part}-{path.name}": path.read_text(encoding="utf-8", errors="replace")
        for pattern in LICENCES
        for path in sorted(folder.glob(pattern))
        if path.is_file() and path.stat().st_size < 1_000_000
    }


def model_card(info: dict[str, Any], licence_files: list[str]) -> str:
    """The model card: markdown with a YAML head, as the Hugging Face hub reads it."""
    base, layers = info["base"], info["layers"]
    several = "donors" in info
    # Each donor with its name in the card.
    if several:
        donors = [(f"donor {donor['name']}", donor) for donor in info["donors"]]
    else:
        donors = [("donor", info["donor"])]
    on_hub = [part["model"] for part in (base, *(d for _, d in donors)) if part["on_hub"]]
    front: dict[str, Any] = {
        "library_name": "transformers",
        "pipeline_tag": "text-generation",
        "tags": ["hybrid", "merge", "optlayers"],
        # The hub has no term for several licences that hold together.
        "license": "other",
        "license_name": "see-both-parts",
    }
    if on_hub:
        front |= {"base_model": on_hub, "base_model_relation": "merge"}
    models = " and ".join(_short_name(donor) for _, donor in donors)
    shown = ", ".join(map(str, layers)) or "none"
    graft = Graft(info["swap"], (info["donor_map"],))
    if several:
        mapped = any(donor["donor_map"] for _, donor in donors)
        order = "by maps of indices" if mapped else "index for index"
        called = " and ".join(f"{donor['model']} ({donor['name']})" for _, donor in donors)
    else:
        order, called = graft.order(LayerSet(tuple(layers))), donors[0][1]["model"]
    files = ", ".join(f"`{name}`" for name in licence_files)
    return CARD.format(
        front=yaml.safe_dump(front, sort_keys=False),
        title=f"{_short_name(base)} with {graft.parts} {shown} of {models}",
        base=base["model"],
        donor=called,
        s="s" if several else "",
        donor_rows="\n".join(
            f"| {name} | {d['model']} ({d['model_type']}{_revision(d)}) |" for name, d in donors
        ),
        donor_licences="\n".join(f"| {name}, {d['model']} | {_licence(d)} |" for name, d in donors),
        whose={"base": "the base", "donor": "the donor"}.get(info["tokenizer"], info["tokenizer"]),
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
        licence_files=f"Their texts are in this folder: {files}. " if files else "",
    )


def _short_name(part: dict[str, Any]) -> str:
    return str(part["model"]).rpartition("/")[2]


def _revision(part: dict[str, Any]) -> str:
    return f", revision {part['revision']}" if part["revision"] else ""


def _licence(part: dict[str, Any]) -> str:
    return part["licence"] or "not named in its folder; see where the model comes from"


def _score(info: dict[str, Any]) -> str:
    """The section on the score."""
    score, study = info["score"], info["study"]
    tasks = []
    for task in study["tasks"]:
        shots = "the task's own number of examples"
        if task["num_fewshot"] is not None:
            shots = f"{task['num_fewshot']}-shot"
        tasks.append(f"{task['name']} ({task['metric']}, {shots}, weight {task['weight']:g})")
    if score is None:
        return (
            f"This layer set was not evaluated. The study {study['name']} is on "
            f"{' and '.join(tasks)}."
        )
    rows = [(f"{score['questions']} of the search ({score['fidelity']} fidelity)", score)]
    held = score.get("held_out")
    if held:
        rows.append((f"{held['questions']} held out, never used in the search", held))
    lines = ["| questions | score | 95 % interval |", "|---|---|---|"]
    for what, row in rows:
        low, high = 100 * row["ci_low"], 100 * row["ci_high"]
        lines.append(f"| {what} | {100 * row['score']:.2f} % | {low:.1f} to {high:.1f} |")
    text = (
        f"Measured in the study {study['name']} with the prompts, choices and metrics of "
        f"lm-eval {info['versions']['lm_eval'] or ''} on {' and '.join(tasks)}"
        f"{', on ' + score['device'] if score.get('device') else ''}. The questions are a fixed, "
        "shuffled sample of every subject, and each subject has the weight that lm-eval gives it. "
        "The interval covers the choice of questions."
    )
    if score.get("evaluated_sets", 0) > 1:
        text += (
            f" {score['evaluated_sets']} layer sets were evaluated on the questions of the search; "
            "as the best of them, this one has a score there that is too high on average."
        )
    return "\n".join([*lines, "", text])
