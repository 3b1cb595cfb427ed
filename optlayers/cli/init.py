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

from optlayers.cli.app import app, at_least, say

_TEMPLATE = """\
# optlayers search --study {file}
# base: {base_shape}; donor: {donor_shape}.
# {sets:,} sets of {least} to {most} donor layers. Every field: docs/reference.md.
name: {name}

# Hub ids, or folders relative to this file. `revision: ...` beside a hub id pins a commit.
base: {{model: {base}}}
donor: {{model: {donor}}}

# How many layers may come from the donor.
layers: {{min: {least}, max: {most}}}

# Any multiple-choice tasks or groups of lm-eval (`lm_eval ls tasks`); metric: acc or acc_norm.
tasks:
{tasks}
# A folder with lm-eval YAML of your own.
task_path: {task_path}

# Questions of each subject: every set answers `fast`, the good ones go on to `full` (null: all);
# a share `holdout` is set aside, and answered by the winners at the end.
questions: {{fast: 20, full: {full}, holdout: 0.2, seed: 0}}

# The budget; it may be changed later, and the search goes on.
explore: {{population: 20, generations: 15, patience: 6}}
validate: {{top: 10}}
refine: {{top: 2, verify: 4, rounds: 4}}
"""


@app.command()
def init(
    base: Annotated[
        str | None, typer.Option("--base", help="The cheap model: a hub id or a folder.")
    ] = None,
    donor: Annotated[
        str | None, typer.Option("--donor", help="The strong model: a hub id or a folder.")
    ] = None,
    tasks: Annotated[
        str | None, typer.Option("--tasks", help="Tasks of lm-eval, with commas between.")
    ] = None,
    task_path: Annotated[
        Path | None, typer.Option("--task-path", help="A folder with lm-eval YAML of your own.")
    ] = None,
    max_layers: Annotated[
        int | None, typer.Option("--max-layers", help="Donor layers at most (default: 4).")
    ] = None,
    out: Annotated[
        Path | None, typer.Option("--out", metavar="FILE", help="The study file to write.")
    ] = None,
) -> None:
    """Ask for two models and tasks, look at their configs, and write a commented study file.

    No weights are fetched. What an option gives is not asked for.
    """
    from optlayers.config.study import parse_study
    from optlayers.errors import InputError

    target = out or Path(_asked("--out", None, "Study file to write", "study.yaml"))
    if target.suffix not in (".yaml", ".yml"):
        raise InputError(f"--out {target}: a study file ends in .yaml; name it so")
    if target.exists():
        raise InputError(f"--out {target}: it exists already; choose another, or remove it")
    cheap = _asked("--base", base, "Base, the cheap model (hub id or folder)")
    strong = _asked("--donor", donor, "Donor, the strong model (hub id or folder)")
    peeks = _looked(cheap, strong)
    n_layers = peeks[0].n_layers
    names = [t.strip() for t in _asked("--tasks", tasks, "Tasks of lm-eval", "mmlu").split(",")]
    _check_tasks(names, task_path)
    most = min(4, n_layers) if max_layers is None else max_layers
    at_least("--max-layers", most, 1)
    if most > n_layers:
        raise InputError(f"--max-layers is {most}, and the models have {n_layers} layers; lower it")
    text = _TEMPLATE.format(
        file=shlex.quote(str(target)),
        name=_quoted(re.sub(r"[^A-Za-z0-9._-]+", "-", target.stem).strip("-._") or "study"),
        base=_quoted(_relative(cheap, target)),
        donor=_quoted(_relative(strong, target)),
        base_shape=_shape(peeks[0]),
        donor_shape=_shape(peeks[1]),
        sets=sum(math.comb(n_layers, k) for k in range(1, most + 1)),
        least=1,
        most=most,
        tasks="".join(f"  - {{name: {_quoted(name)}, weight: 1.0}}\n" for name in names),
        task_path="null" if task_path is None else _quoted(_relative(str(task_path), target)),
        full="null",
    )
    parse_study(text, str(target), target.absolute().parent)
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_text(text, encoding="utf-8")
    say(f"{n_layers} layers of width {peeks[0].config.hidden_size}; wrote {target}")
    say("Next:")
    say(f"  optlayers fetch --study {shlex.quote(str(target))}")
    say(f"  optlayers search --study {shlex.quote(str(target))}")


def _asked(option: str, given: str | None, question: str, default: str | None = None) -> str:
    """What the option gives, or else the answer to a question."""
    from optlayers.errors import InputError

    if given is None:
        if not sys.stdin.isatty():
            if default is not None:
                return default
            raise InputError(f"{option} is missing, and there is no terminal to ask at; give it")
        given = typer.prompt(question, default=default, err=True)
    if not given.strip():
        raise InputError(f"{option} is empty; give it")
    return given.strip()


def _looked(base: str, donor: str) -> list[Any]:
    """Both configs, once it is known that the two fit."""
    from optlayers.checkpoints.parents import check_pair
    from optlayers.checkpoints.remote_config import peek

    found: list[Any] = []
    for part, where in (("base", base), ("donor", donor)):
        say(f"{part} {where}: reading its config")
        found.append(peek(str(Path(where).expanduser()) if where.startswith("~") else where))
    check_pair(found[0], found[1])
    if found[0].config.vocab_size != found[1].config.vocab_size:
        say(
            f"note: base embeds {found[0].config.vocab_size} tokens and donor "
            f"{found[1].config.vocab_size}; the base's embedding and head are used, and the "
            "tokenizer must fit them"
        )
    return found


def _check_tasks(names: list[str], task_path: Path | None) -> None:
    from optlayers.evaluation.tasks import check_names

    say("looking the tasks up (lm-eval reads all of its definitions, which takes a while)")
    check_names(names, None if task_path is None else str(task_path))


def _relative(where: str, target: Path) -> str:
    """A folder as seen from the study file, or a hub id as it is."""
    path = Path(where).expanduser()
    if path.is_absolute():
        return str(path)
    if not path.exists():
        return where
    seen = os.path.relpath(path.absolute(), target.absolute().parent)
    return seen if seen.startswith(".") else f"./{seen}"


def _quoted(text: str) -> str:
    """Text as YAML holds it: in quotes where it would be read as something else."""
    plain = re.fullmatch(r"[A-Za-z./~][A-Za-z0-9._/~-]*", text)
    words = ("true", "false", "null", "yes", "no", "on", "off", "~")
    return text if plain and text.lower() not in words else "'" + text.replace("'", "''") + "'"


def _shape(peeked: Any) -> str:
    config = peeked.config
    return f"{config.model_type}, {config.num_hidden_layers} layers, {config.hidden_size} wide"
