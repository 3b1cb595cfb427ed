"""What every mechanism beside the mission's own brings: its lines, and a figure with it off.

    python -m benchmarks.worth                          # the table, from what was measured before
    python -m benchmarks.worth --measure cpu storage    # measure these again, then the table

A figure is one that a user sees: seconds of an evaluation, memory of the workers, the cost of
finding the best set, seconds until a command answers. Off by on: 1.3 means that the figure is 1.3
times as large without the mechanism. What brings less than a tenth goes. Lines are counted here, in
the files and functions that a row names; of what is gone, the lines it had. Ratios on the CPU are
medians of runs that alternate with and without; the rows of the search come from
`benchmarks/search/ablation.py` (20 seeds on each of seven landscapes; what is gone by the search
before, on six), those of the GPU from the tables of `benchmarks/engine/engine.py`. Operators of the
genetic search that bring less than a tenth stay as features by design; all of them off together
costs no more. Retries, signals, heartbeats, one-time jobs, the watchdog, the guard of a study, long
values in parts and the check in a process of its own have no row: they hold guarantees, which
`benchmarks/storage/reliability.py` and the tests of the servers test.
"""

from __future__ import annotations

import argparse
import ast
import json
import statistics
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.lib import worth_measures
from benchmarks.search.ablation import ratio, recorded

ROOT = Path(__file__).resolve().parents[1]
HERE = ROOT / "benchmarks"
STAYS, GOES = "stays", "goes"
LEAST = 1.10  # off by on; a mechanism that brings less goes
BEFORE, NOW = "ablation-before.jsonl.gz", "ablation.jsonl.gz"

Data = Mapping[str, Any]


@dataclass(frozen=True)
class Mechanism:
    """A row of the table.

    where: files of the package, or `file:name,name` for functions and classes in one. gain: what a
    user gets. off: the text of the measurement, and off by on (None: it moves no figure). kept: why
    it stays although it brings less than a tenth.
    """

    name: str
    where: str
    gain: str
    off: Callable[[Data], tuple[str, float | None]]
    kept: str = ""


def lines_of(where: str) -> int | None:
    """Lines of what `where` names, separated by spaces; None where any of it is not there."""
    total = 0
    for part in where.split():
        name, _, inner = part.partition(":")
        path = ROOT / "optlayers" / name
        if not path.is_file():
            return None
        text = path.read_text(encoding="utf-8")
        if not inner:
            total += len(text.splitlines())
            continue
        spans = {
            node.name: (node.end_lineno or node.lineno) - _first_line(node) + 1
            for node in ast.walk(ast.parse(text))
            if isinstance(node, ast.FunctionDef | ast.ClassDef)
        }
        if any(wanted not in spans for wanted in inner.split(",")):
            return None
        total += sum(spans[wanted] for wanted in inner.split(","))
    return total


def _first_line(node: ast.FunctionDef | ast.ClassDef) -> int:
    return min([node.lineno, *(d.lineno for d in node.decorator_list)])


# ------------------------------------------------------------------ what was measured


def _cpu(name: str) -> Callable[[Data], tuple[str, float | None]]:
    def off(data: Data) -> tuple[str, float | None]:
        found = data["cpu"]["off"][name]
        wall, cpu = (statistics.median(found[key]) for key in ("wall", "cpu"))
        return f"cohort on the CPU: {wall:.2f} x the time, {cpu:.2f} x the CPU time", wall

    return off


def _engine(file: str, on: str, off: str) -> tuple[float, float]:
    """Seconds a candidate of two rows of a table of the engine."""
    rows = json.loads((HERE / "engine" / f"engine-{file}.json").read_text(encoding="utf-8"))
    return float(rows[on].split()[0]), float(rows[off].split()[0])


def _gpu(off: str, on: str = "4 random sets") -> Callable[[Data], tuple[str, float | None]]:
    def measured(data: Data) -> tuple[str, float | None]:
        ratios = []
        for shape in ("llamba-8b-gpu-model", "llamba-1b-gpu"):
            with_it, without = _engine(shape, on, off)
            ratios.append(without / with_it)
        return f"on a GPU: 8B {ratios[0]:.2f} x, 1B {ratios[1]:.2f} x the time", ratios[0]

    return measured


def _both(
    first: Callable[[Data], tuple[str, float | None]],
    second: Callable[[Data], tuple[str, float | None]],
) -> Callable[[Data], tuple[str, float | None]]:
    """Two measurements; the larger ratio counts."""

    def measured(data: Data) -> tuple[str, float | None]:
        (a, x), (b, y) = first(data), second(data)
        return f"{a}; {b}", max(x or 0.0, y or 0.0)

    return measured


def _runs(name: str) -> list[dict[str, Any]]:
    return recorded(HERE / "search" / name)


def _search(variant: str, before: str = "") -> Callable[[Data], tuple[str, float | None]]:
    """A variant of the ablation; where it was not run on today's search, of the one before."""

    def measured(data: Data) -> tuple[str, float | None]:
        rows, name = _runs(NOW), variant
        if not any(row["variant"] == variant for row in rows):
            rows, name = _runs(BEFORE), before or variant
        return _cost(rows, name)

    return measured


def _cost(rows: Sequence[dict[str, Any]], variant: str) -> tuple[str, float]:
    names = sorted({row["landscape"] for row in rows})
    middle, low, high = ratio(rows, variant, names)
    runs = sum(row["variant"] == variant for row in rows)
    return f"cost of the best set: {middle:.2f} x ({low:.2f} to {high:.2f}; {runs} runs)", middle


def _without_guide(data: Data) -> tuple[str, float | None]:
    """The search that had it, without; measured together with other simplifications of it."""
    return _cost(_runs(BEFORE), "simple")


def _fp8(data: Data) -> tuple[str, float | None]:
    name = "40 random sets of 2 to 4 layers"
    with_it, _ = _engine("llamba-8b-gpu-fp8", f"fp8: {name}", f"fp8: {name}")
    without, _ = _engine("llamba-8b-gpu-model", name, name)
    text = f"8B cohort of 40: {without / with_it:.2f} x the time; the preset `full` 22.2 minutes"
    return f"{text} for 15.8", without / with_it


def _offload(data: Data) -> tuple[str, float | None]:
    with_it, _ = _engine("llamba-8b-gpu-18gb", *["one candidate alone"] * 2)
    text = f"8B pair on 18 GB of a GPU: {with_it:.2f} s a candidate, which without does not run"
    return text, float("inf")


def _weights(data: Data) -> tuple[str, float | None]:
    on, off = data["weights"]["on"], data["weights"]["off"]
    text = (
        f"4 CPU workers of a 135M pair: {off['memory'] / 1e3:.1f} GB for "
        f"{on['memory'] / 1e3:.1f}; start {off['cpu']:.1f} for {on['cpu']:.1f} CPU seconds"
    )
    return text, off["memory"] / on["memory"]


def _store(key: str, what: str, mode: str) -> Callable[[Data], tuple[str, float | None]]:
    def measured(data: Data) -> tuple[str, float | None]:
        on, off = data["storage"]["all"][key], data["storage"][mode][key]
        return f"{what}: {off:,.0f} for {on:,.0f} ms of CPU", off / on

    return measured


def _logprobs(data: Data) -> tuple[str, float | None]:
    found = data["logprobs"]
    cost = "cost of the best set: " + ", ".join(
        "{} {:.2f} x ({:.2f} to {:.2f})".format(name, *ratio)
        for name, ratio in found["ratios"].items()
    )
    cost += f", {found['runs']} runs each"
    rows = (HERE / "search" / "logprob-smollm2.md").read_text(encoding="utf-8").splitlines()
    row = next(line for line in rows if line.startswith("| 24 |"))
    ranks, _, both, _, _, best, best_both = row.strip("| ").split(" | ")[1:]
    text = (
        f"{cost}; 3-bit SmolLM2, rank correlation from 24 questions: {ranks} for {both}, the ten "
        f"sets that come first: {best} for {best_both} % right"
    )
    return text, max(ratio[0] for ratio in found["ratios"].values())


def _figures(data: Data) -> tuple[str, float | None]:
    found = data["importances"]
    text = (
        f"layers that matter most: the dashboard's own importances name {found['dashboard']}, the "
        f"figure {found['figure']}; true {found['true']} (rank correlation {found['plain']:.2f} "
        f"for {found['ours']:.2f})"
    )
    return text, float("inf")


def _text(text: str, by: float | None = None) -> Callable[[Data], tuple[str, float | None]]:
    """A measurement that is described in words."""
    return lambda data: (text, by)


WISH = "a feature by design"
INF = float("inf")

MECHANISMS = (
    # The search.
    Mechanism("surrogate", "search/surrogate.py", "fewer evaluations", _search("no model")),
    Mechanism("pausing: sets go on rung by rung, the likeliest first", "search/rungs.py",
              "fewer evaluations", _search("no pausing")),
    Mechanism("climbing the surrogate's mean", "search/genetic.py:_ranked", "fewer evaluations",
              _search("no climbing"), kept="1.7 x on `harmful`, 1.2 x on the real pair"),
    Mechanism("prefix bias", "search/prefix_bias.py", "fewer evaluations",
              _search("no prefix bias"), kept="1.4 x on the demo, 1.3 x on `dominant`"),
    Mechanism("pair terms", "search/pairs.py search/genetic.py:_paired,_fill_gaps",
              "fewer evaluations; twice on the synergistic landscape", _search("no pairs")),
    Mechanism("shrinkage of scores", "search/history.py:estimates", "fewer evaluations",
              _search("no shrinkage"),
              kept="scores on few questions are never compared with full ones"),
    Mechanism("mutation by patterns", "search/patterns.py search/operators.py:plant_pattern",
              "fewer evaluations", _search("no patterns", "no pattern guide"), kept=WISH),
    Mechanism("synergy in patterns", "search/patterns.py:_synergies,layer_strengths",
              "fewer evaluations", _search("patterns without synergy"),
              kept="`optlayers patterns` shows it"),
    Mechanism("schedule and strengths of the guide", "search/guide.py", "fewer evaluations",
              _without_guide),
    Mechanism("crossover", "search/operators.py:uniform_crossover,repair", "fewer evaluations",
              _search("no crossover"), kept=WISH),
    Mechanism("mutation by size", "search/operators.py:mutation_odds", "fewer evaluations",
              _search("all sizes alike"), kept=WISH),
    Mechanism("parents by fronts of score and size", "search/selection.py:non_dominated_fronts",
              "fewer evaluations", _search("fittest parents"), kept=WISH),
    Mechanism("tournament", "search/selection.py:tournament", "fewer evaluations",
              _search("no tournament"), kept=WISH),
    Mechanism("crossover, fronts, tournament and mutation by size, together",
              "search/operators.py:uniform_crossover,repair,mutation_odds search/selection.py",
              "fewer evaluations", _search("simplest", "simple"),
              kept="NSGA-II and size-aware mutation, by design"),
    Mechanism("initial sets by single-layer scores", "search/initial.py", "fewer evaluations",
              _search("no initial sets"), kept=WISH),
    Mechanism("log-probabilities", "search/logprobs.py", "fewer evaluations", _logprobs,
              kept="it ranks poor sets far better from few questions"),
    # The engine.
    Mechanism("tree of shared layers", "inference/prefix_tree.py", "shorter evaluations",
              _both(_cpu("tree"), _gpu("4 random sets, no shared layers"))),
    Mechanism("shared contexts", "inference/packing.py", "shorter evaluations",
              _both(_gpu("4 random sets, no shared contexts"),
                    _text("five shots, 8B: 6.4 x", 6.4))),
    Mechanism("packed and fused layers",
              "inference/packed.py inference/fused.py inference/flat.py inference/kernels.py",
              "shorter evaluations on a GPU", _gpu("4 random sets, padded and eager")),
    Mechanism("head and last layer trimmed", "evaluation/gather.py", "shorter evaluations",
              _both(_cpu("trim"), _gpu("4 random sets, head and last layer untrimmed"))),
    Mechanism("questions sorted by length", "evaluation/engine.py:_batches", "shorter evaluations",
              _both(_cpu("sort"), _gpu("4 random sets, questions in random order"))),
    Mechanism("batch size tuned on the GPU", "inference/device.py:tuned_budget,_seconds",
              "shorter evaluations",
              _text("on a GPU: four times the tuned size 8B 0.97 x, 1B 0.95 x the time", 0.97)),
    Mechanism("batch size by the CPU's cache", "inference/device.py:default_budget",
              "shorter evaluations", _cpu("budget of 4,096")),
    Mechanism("CPU form for narrow layers", "inference/narrow.py", "shorter evaluations on a CPU",
              _cpu("narrow form")),
    Mechanism("batches side by side in threads", "inference/threads.py",
              "shorter evaluations on a CPU", _cpu("threads")),
    Mechanism("both of these", "inference/narrow.py inference/threads.py",
              "shorter evaluations on a CPU", _cpu("narrow form and threads")),
    Mechanism("converted weights shared by workers", "inference/converted.py",
              "less memory and a faster start", _weights),
    Mechanism("layers in host memory", "inference/offload.py", "a smaller GPU suffices", _offload),
    Mechanism("fp8", "inference/fp8.py inference/fp8_kernels.py", "shorter searches", _fp8),
    # The rest.
    Mechanism("a cohort in one commit", "storage/fast.py", "shorter searches with many workers",
              _store("trial", "storage of a trial of 32 layers, in cohorts", "public calls")),
    Mechanism("own reader of trials", "storage/read.py", "commands and workers start sooner",
              _store("first read", "first read of 10,000 trials", "plain reader")),
    Mechanism("figures in the dashboard", "report/dashboard.py:_write_figures,annotate "
              "storage/dashboard.py:save_figures",
              "which layers matter", _figures),
    Mechanism("notes of trials in the dashboard", "report/dashboard.py:trial_note,_stage "
              "storage/dashboard.py:save_trial_notes,has_note",
              "the answers by subject of one trial", _text("moves no figure")),
    Mechanism("guard against alias bombs", "config/yaml_file.py:_values,get_single_node",
              "a study file made to hang is refused",
              _text("a file of 60 doubling aliases is read without end", INF)),
    Mechanism("SHA-256 of checkpoints",
              "checkpoints/files.py:sha256_of,hash_files,checkpoint_files,changed_files",
              "`verify` finds a changed byte",
              _text("a changed byte loads unseen; an export runs at 1.05 of a plain copy with it",
                    INF)),
    Mechanism("status of workers", "storage/worker_status.py", "`status` of all machines",
              _text("`status` shows no worker; at most one commit a second", INF)),
)  # fmt: skip


def table(data: Data, counted: Mapping[str, int]) -> str:
    """Markdown."""
    lines = [
        "| mechanism | lines | a user gains | with it off | |",
        "|---|--:|---|---|---|",
    ]
    for one in MECHANISMS:
        text, by = one.off(data)
        verdict = STAYS if by is not None and by >= LEAST else GOES
        if verdict == GOES and one.kept:
            verdict = f"stays: {one.kept}"
        there = lines_of(one.where) is not None
        if verdict == GOES and not there:
            verdict = "gone"
        elif not there:
            sys.exit(f"{one.name}: {one.where} is not there; say where it is now")
        where = ", ".join(f"`{part}`" for part in one.where.split())
        lines.append(
            f"| {one.name} ({where}) | {counted[one.name]} | {one.gain} | {text} | {verdict} |"
        )
    return "\n".join(lines)


def main() -> None:
    """Measure what is asked for, count, write."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--measure", nargs="*", default=[], choices=list(worth_measures.MEASURES))
    parser.add_argument("--out", type=Path, default=HERE, help="folder of worth.md and worth.json")
    args = parser.parse_args()
    file = args.out / "worth.json"
    kept = json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}
    data, counted = kept.get("measured", {}), kept.get("lines", {})
    for name in args.measure:
        # Each in a process of its own: the switches of one do not meet the other.
        code = f"from benchmarks.lib.worth_measures import MEASURES as m; m[{name!r}]()"
        run = subprocess.run([sys.executable, "-c", code], stdout=subprocess.PIPE, check=True)
        data[name] = json.loads(run.stdout.splitlines()[-1])
    for one in MECHANISMS:
        counted[one.name] = lines_of(one.where) or counted.get(one.name, 0)
    file.write_text(json.dumps({"measured": data, "lines": counted}, indent=1), encoding="utf-8")
    text = f"# What each mechanism brings\n\n{_head()}\n\n{table(data, counted)}\n"
    (args.out / "worth.md").write_text(text, encoding="utf-8")
    print(text)


def _head() -> str:
    return "Made by `benchmarks/worth.py`. " + " ".join(__doc__.split("\n\n")[-1].split())


if __name__ == "__main__":
    main()
