"""Searches the demo and writes what it found, with intervals, to `benchmarks/search/demo.md`.

python -m studies.demo.build.results        # about two minutes on one core
"""

from __future__ import annotations

import tempfile
from pathlib import Path

import optlayers
from optlayers.results.heldout import HeldOut, held_out_of
from optlayers.results.leaderboard import best_of_size

ROOT = Path(__file__).resolve().parents[3]
OUT = ROOT / "benchmarks" / "search" / "demo.md"
HEAD = """\
# What a search of the demo finds

By `studies/demo/build/results.py`: `optlayers search` with one worker, and the best set of each
size that it evaluated in full. In brackets 95 % intervals. No decision has seen
the held-out questions.

"""


def share(score: float, low: float, high: float) -> str:
    """A score and its interval in percent."""
    return f"{100 * score:.1f} ({100 * low:.1f} to {100 * high:.1f})"


def held(found: HeldOut | None) -> str:
    """A held-out score, where there is one."""
    return share(found.score, found.ci_low, found.ci_high) if found else "not checked"


def main() -> None:
    """Search in a folder of its own, and write the table."""
    with tempfile.TemporaryDirectory() as folder:
        done = optlayers.search_study("demo", f"sqlite:///{folder}/optuna.db", device="cpu")
        report = done.report()
        attrs = done.study.user_attrs
        rows = [row for row in done.leaderboard if row.fidelity == "full"]
        lines = [
            f"| layer set | on {rows[0].questions} search questions, % | held-out, % |",
            "|---|---|---|",
        ]
        ends = {"base": (), "donor": tuple(range(report.n_layers))}
        names = {"base": "none (the base)", "donor": "all (the donor)"}
        table = {}
        for name, indices in ends.items():
            seen = report.references[name]
            unseen = held_out_of(attrs, optlayers.LayerSet(indices))
            cells = (names[name], share(seen.score, seen.ci_low, seen.ci_high), held(unseen))
            table[name] = f"| {' | '.join(cells)} |"
        lines.append(table["base"])
        for row in best_of_size(rows):
            layers = optlayers.LayerSet(tuple(row.layers))
            unseen = held_out_of(attrs, layers)
            cells = (str(layers), share(row.score, row.ci_low, row.ci_high), held(unseen))
            lines.append(f"| {' | '.join(cells)} |")
        lines.append(table["donor"])
        sets = len(done.leaderboard)
        tail = f"\n{sets} layer sets were evaluated, {len(rows)} of them on all search questions.\n"
        OUT.write_text(HEAD + "\n".join(lines) + "\n" + tail, encoding="utf-8")
        print(OUT.read_text("utf-8"))


if __name__ == "__main__":
    main()
