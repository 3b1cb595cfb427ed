"""`optlayers init`: asks for two models and tasks, and writes a commented study file."""

from __future__ import annotations

import math
import os
import re
import shlex
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from optlayers.cli import options as opt
from optlayers.cli.app import app, program, say
from optlayers.config.study import parse_study
from optlayers.errors import InputError

_TEMPLATE = """\
# optlayers search --study {file}
# base: {base_shape}; donor: {donor_shape}.
# {sets:,} sets of 1 to {most} donor layers. All fields: docs/reference.md.
name: {name}

# Hub ids, or folders relative to this file. `revision: ...` next to a hub id pins a commit.
base: {{model: {base}}}
donor: {{model: {donor}}}

# How many layers may come from the donor.
layers: {{min: 1, max: {most}}}

# Multiple-choice tasks or groups of lm-eval (`lm_eval ls tasks`); metric: acc or acc_norm.
tasks:
{tasks}
# A folder with lm-eval YAML of your own.
task_path: {task_path}

# Questions per subject: each set answers `fast`, the good ones go on to `full` (null: all).
# The share `holdout` is set aside, and the best sets answer it at the end.
questions: {{fast: 20, full: null, holdout: 0.2, seed: 0}}

# The budget. It can be changed later; the search then continues.
explore: {{population: 20, generations: 15, patience: 6}}
validate: {{top: 10}}
refine: {{top: 2, verify: 4, rounds: 4}}
"""


@app.command()
def init(
    base: Annotated[str | None, typer.Option(help="The cheap model: a hub id or a folder.")] = None,
    donor: Annotated[
        str | None, typer.Option(help="The strong model: a hub id or a folder.")
    ] = None,
    tasks: Annotated[
        str | None, typer.Option(help="Tasks of lm-eval, separated by commas.")
    ] = None,
    task_path: Annotated[
        Path | None, typer.Option(help="A folder with lm-eval YAML of your own.")
    ] = None,
    max_layers: Annotated[
        int | None,
        typer.Option(callback=opt.number(1), help="Maximum number of donor layers (default: 4)."),
    ] = None,
    out: Annotated[
        Path | None, typer.Option(metavar="FILE", help="The study file to write.")
    ] = None,
) -> None:
    """Write a commented study file for two models and tasks.

    Asks for what no option gives. Reads the two configs, and no weights.
    """
    from optlayers.evaluation.tasks import check_names

    target = out or Path(_ask("--out", None, "Study file to write", "study.yaml"))
    if target.suffix not in (".yaml", ".yml"):
        raise InputError(f"--out {target}: a study file ends in .yaml; rename it")
    if target.exists():
        raise InputError(f"--out {target}: it already exists; choose another, or remove it")
    cheap = _ask("--base", base, "Base, the cheap model (hub id or folder)")
    strong = _ask("--donor", donor, "Donor, the strong model (hub id or folder)")
    configs = _read_configs(cheap, strong)
    n_layers = configs[0].n_layers
    names = [t.strip() for t in _ask("--tasks", tasks, "Tasks of lm-eval", "mmlu").split(",")]
    say("checking the tasks (lm-eval reads all of its definitions, which takes a while)")
    check_names(names, None if task_path is None else str(task_path))
    most = min(4, n_layers) if max_layers is None else max_layers
    if most > n_layers:
        raise InputError(f"--max-layers is {most}, and the models have {n_layers} layers; lower it")
    text = _TEMPLATE.format(
        file=shlex.quote(str(target)),
        name=_quoted(re.sub(r"[^A-Za-z0-9._-]+", "-", target.stem).strip("-._") or "study"),
        base=_quoted(_relative(cheap, target)),
        donor=_quoted(_relative(strong, target)),
        base_shape=_shape(configs[0].config),
        donor_shape=_shape(configs[1].config),
        sets=sum(math.comb(n_layers, k) for k in range(1, most + 1)),
        most=most,
        tasks="".join(f"  - {{name: {_quoted(name)}, weight: 1.0}}\n" for name in names),
        task_path="null" if task_path is None else _quoted(_relative(str(task_path), target)),
    )
    parse_study(text, str(target), target.absolute().parent)
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_text(text, encoding="utf-8")
    say(f"wrote {target}\nNext:")
    for command in ("fetch", "search"):
        say(f"  {program()} {command} --study {shlex.quote(str(target))}")


def _ask(option: str, given: str | None, question: str, default: str | None = None) -> str:
    """The value of an option, or else the answer to a question."""
    if given is None:
        if not sys.stdin.isatty():
            if default is not None:
                return default
            raise InputError(f"{option} is missing, and there is no terminal to ask on; add it")
        given = typer.prompt(question, default=default, err=True)
    if not given.strip():
        raise InputError(f"{option} is empty; give a value")
    return given.strip()


def _read_configs(base: str, donor: str) -> list[Any]:
    """Both configs, once they are known to fit."""
    from optlayers.checkpoints.fetch import open_config
    from optlayers.checkpoints.parents import check_pair

    found: list[Any] = []
    for part, model in (("base", base), ("donor", donor)):
        say(f"{part} {model}: reading its config")
        found.append(open_config(str(Path(model).expanduser()) if model.startswith("~") else model))
    check_pair(found[0], found[1])
    sizes = [model.config.vocab_size for model in found]
    if sizes[0] != sizes[1]:
        say(
            f"note: the base has {sizes[0]} token embeddings, the donor {sizes[1]}; the hybrid "
            "uses those of the base, and the tokenizer must fit them"
        )
    return found


def _relative(where: str, target: Path) -> str:
    """A folder relative to the study file, or a hub id as it is."""
    path = Path(where).expanduser()
    if path.is_absolute():
        return str(path)
    if not path.exists():
        return where
    relative = os.path.relpath(path.absolute(), target.absolute().parent)
    return relative if relative.startswith(".") else f"./{relative}"


def _quoted(text: str) -> str:
    """A string in YAML, quoted if YAML would read it as something else."""
    plain = re.fullmatch(r"[A-Za-z./~][A-Za-z0-9._/~-]*", text)
    words = ("true", "false", "null", "yes", "no", "on", "off", "~")
    return text if plain and text.lower() not in words else "'" + text.replace("'", "''") + "'"


def _shape(config: Any) -> str:
    return f"{config.model_type}, {config.num_hidden_layers} layers, width {config.hidden_size}"
