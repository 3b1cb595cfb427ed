"""What the whole `full` preset would cost: its course on a landscape of MMLU's shape.

    python -m benchmarks.search.full_preset --seeds 5 --out benchmarks/search

All phases of `studies/full.yaml` with its prior, the questions in MMLU's subjects, and the plan,
sampler, pruner, rungs and cohorts of the package; only the models are made up (the `published`
family of `benchmarks/lib/landscapes.py`). Counted are question-layer passes, as they are run: with
shared prefixes of layers. One candidate's 570 questions alone are 18,240 of them.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.lib import program
from benchmarks.lib.landscapes import FAMILIES, LAYERS, SyntheticQuestions
from optlayers.config.study import load_study
from optlayers.evaluation.questions import Subject, order_questions
from optlayers.inference.prefix_tree import layer_passes
from optlayers.layerset import LayerSet, LayerSpace
from optlayers.search.proposal import Phase
from optlayers.search.rungs import Rungs
from optlayers.search.surrogate import indicators
from optlayers.testing.simulation import Simulation
from optlayers.trials.ranking import MAX_HELD_OUT, best_by_layers

# Test questions of MMLU's 57 subjects (Hendrycks et al. 2021), 14,042 in all.
MMLU = (
    "100 135 152 100 265 144 100 100 100 173 102 100 235 114 145 378 126 100 310 203 100 165 198 "
    "193 390 270 238 151 545 216 204 237 223 131 121 108 163 112 103 234 100 783 346 895 306 311 "
    "324 282 1534 272 612 110 245 201 100 166 171"
)
CANDIDATE = 570 * LAYERS
SPACE = LayerSpace(LAYERS, 0, 4)


@dataclass
class Made:
    """A landscape of every set of one to four layers, whose answers are drawn when asked for."""

    seed: int
    n_fast: int
    strata: NDArray[np.int64]
    skill: dict[LayerSet, float]
    question: SyntheticQuestions
    n_layers: int = LAYERS
    found: dict[LayerSet, NDArray[np.bool_]] = field(default_factory=dict)

    @property
    def n_full(self) -> int:
        """Number of questions."""
        return len(self.strata)

    def of(self, layers: LayerSet, stop: int) -> NDArray[np.bool_]:
        """Right or wrong [stop] of a set on the first questions."""
        if layers not in self.found:
            rng = np.random.default_rng([self.seed, *layers.indices])
            self.found[layers] = self.question.answers(np.array([self.skill[layers]]), rng)[0]
        return self.found[layers][:stop]


@dataclass
class Tally:
    """Layer sets, questions and question-layer passes of each phase."""

    known: dict[LayerSet, int] = field(default_factory=dict)
    sets: Counter[str] = field(default_factory=Counter)
    questions: Counter[str] = field(default_factory=Counter)
    alone: Counter[str] = field(default_factory=Counter)
    shared: Counter[str] = field(default_factory=Counter)

    def pay(self, sets: Sequence[LayerSet], stop: int, phase: str) -> None:
        """Count the questions up to `stop` that the sets have not answered."""
        starts: dict[int, list[LayerSet]] = {}
        for layers in sets:
            starts.setdefault(self.known.get(layers, 0), []).append(layers)
        for start, group in starts.items():
            new = stop - start
            self.sets[phase] += len(group) * (start == 0)
            self.questions[phase] += new * len(group)
            self.alone[phase] += new * len(group) * LAYERS
            self.shared[phase] += new * layer_passes(group, SPACE)
            self.known.update(dict.fromkeys(group, stop))


def run(seed: int, study: str) -> tuple[Tally, dict[str, Any]]:
    """One whole search; what it cost and what it found."""
    definition = load_study(study).model_copy(update={"seed": seed})
    subjects = [Subject(f"s{i}", int(n), float(n)) for i, n in enumerate(MMLU.split())]
    order = order_questions(subjects, definition.questions)
    rng = np.random.default_rng([seed, list(FAMILIES).index("published")])
    sets = list(SPACE)
    skills = FAMILIES["published"](rng, indicators(sets, LAYERS)) + 0.05
    skill = dict(zip(sets, skills.tolist(), strict=True))
    known = Made(
        seed, order.n_fast, order.subject, skill, SyntheticQuestions.draw(order.n_full, rng)
    )
    tally = Tally()
    records = Simulation(
        definition,
        LAYERS,
        Rungs(order.n_fast, order.n_full, order.subject, order.weights),
        known.of,
        lambda sets, start, stop, phase: tally.pay(sets, stop, phase.value),
    ).run()
    # The held-out check: the best sets, base and donor, and these two on the search's questions.
    full = [r for r in best_by_layers(records).values() if r.is_full]
    full.sort(key=lambda r: -(r.score or 0.0))
    ends = [LayerSet(()), LayerSet(tuple(range(LAYERS)))]
    held = len(order.held_subject)
    for group, questions in (
        ([r.layers for r in full[:MAX_HELD_OUT]] + ends, held),
        (ends, known.n_full),
    ):
        tally.questions["check"] += questions * len(group)
        tally.alone["check"] += questions * len(group) * LAYERS
        tally.shared["check"] += questions * layer_passes(group, SPACE)
    # The true score is that of the skill, without the luck of the questions.
    ranked = sorted(skills[1:], reverse=True)
    mine = skill[full[0].layers]
    place = int(np.searchsorted(-np.array(ranked), -mine)) + 1
    return tally, {
        "seed": seed,
        "best": str(full[0].layers),
        "true rank": place,
        "true skill below the best": float(ranked[0] - mine),
        "full evaluations": len(full),
    }


def main() -> None:
    """Run, print, save."""
    parser = program.parser(__doc__)
    parser.add_argument("--study", default="full")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--first", type=int, default=0, help="the first seed")
    args = parser.parse_args()
    runs = [run(seed, args.study) for seed in range(args.first, args.first + args.seeds)]
    phases = [*(p.value for p in Phase if p is not Phase.done), "check"]
    lines = [
        "| phase | new layer sets | questions | question-layer passes, alone | shared | "
        "candidates of 570 questions, alone | shared |",
        "|---|---|---|---|---|---|---|",
    ]
    data: list[dict[str, Any]] = []
    for phase in [*phases, "all"]:
        row: dict[str, Any] = {"phase": phase}
        for name in ("sets", "questions", "alone", "shared"):
            counts = [
                getattr(t, name)[phase] if phase != "all" else sum(getattr(t, name).values())
                for t, _ in runs
            ]
            row[name] = float(np.mean(counts))
            row[f"{name} of each seed"] = counts
        data.append(row)
        lines.append(
            f"| {phase} | {row['sets']:.0f} | {row['questions']:,.0f} | {row['alone']:,.0f} | "
            f"{row['shared']:,.0f} | {row['alone'] / CANDIDATE:,.0f} | "
            f"{row['shared'] / CANDIDATE:,.0f} |"
        )
    total = data[-1]["shared of each seed"]
    below = [100 * found["true skill below the best"] for _, found in runs]
    text = (
        f"# The whole `{args.study}` preset\n\n{program.made_by(__file__)}: mean of "
        f"{args.seeds} searches to the end on made-up landscapes of MMLU's shape, Llamba-8B's 32 "
        f"layers and its published single scores. Shared passes of one search: "
        f"{min(total):,} to {max(total):,}. `check` is what the leaderboard asks at the end.\n\n"
        + "\n".join(lines)
        + "\n\nThe winner's true skill lies below that of the best of the 41,448 sets by "
        + ", ".join(f"{b:.1f}" for b in below)
        + " points; its true rank is "
        + ", ".join(str(found["true rank"]) for _, found in runs)
        + ".\n"
    )
    program.save(args.out, f"{args.study}_preset.md", text)
    if args.out is not None:
        (args.out / f"{args.study}_preset.json").write_text(
            json.dumps({"phases": data, "runs": [found for _, found in runs]}, indent=1),
            encoding="utf-8",
        )


if __name__ == "__main__":
    main()
