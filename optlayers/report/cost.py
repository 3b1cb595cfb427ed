"""What a search cost: best score against cost, the funnel, and cost by phase."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from optlayers.errors import InputError
from optlayers.report.formats import duration, hundredths, layers_text, percent
from optlayers.report.section import (
    AQUA,
    BLUE,
    GREY,
    INK,
    MAGENTA,
    ORANGE,
    SOFT,
    VIOLET,
    YELLOW,
    Section,
    axis,
    line,
    plot,
    row_axis,
    table,
)
from optlayers.results.course import PhaseCost, Step
from optlayers.results.view import StudyView

MOST_ROWS = 300
PHASES = {"probe": VIOLET, "explore": BLUE, "validate": AQUA, "refine": ORANGE}
SEARCHES = (ORANGE, AQUA, YELLOW, MAGENTA, VIOLET, GREY)
DASHES = ("dot", "dash", "dashdot", "9px 3px")


class Baseline(BaseModel):
    """The best score of another search against its cost.

    cost: full evaluations (one layer set on all questions, without shared prefixes). score: the
    best score on all questions at that cost, 0 to 1.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str = ""
    cost: list[float] = Field(min_length=1)
    score: list[float] = Field(min_length=1)

    @model_validator(mode="after")
    def _same_length(self) -> Baseline:
        if len(self.cost) != len(self.score):
            raise ValueError(f"{len(self.cost)} costs and {len(self.score)} scores")
        return self


class _BaselineFile(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)

    study: str = ""
    searches: dict[str, Baseline]


def read_baselines(path: Path) -> list[Baseline]:
    """The searches of a file `{"searches": {"greedy": {"cost": [1, 2], "score": [0.3, 0.4]}}}`.

    Raises `InputError` if the file is missing or has another format.
    """
    try:
        found = _BaselineFile.model_validate(json.loads(path.read_text("utf-8")))
    except (OSError, ValueError, ValidationError) as error:
        raise InputError(
            f"--baselines {path}: {str(error).splitlines()[0]}; name a file as "
            "benchmarks/search/demo_baselines.py writes it"
        ) from None
    return [search.model_copy(update={"name": name}) for name, search in found.searches.items()]


def score_by_cost(view: StudyView, baselines: Sequence[Baseline] = ()) -> Section | None:
    """Best score against cost, with the phases, compared with other searches."""
    course, total = view.course, view.course.total.stop
    if not course.full and not course.fast:
        return None

    def staircase(steps: list[Step], name: str, colour: str, width: float) -> dict[str, Any]:
        last = [*steps, steps[-1]]  # drawn to the end of the search
        x = [round(cost, 3) for cost in (*(s.cost for s in steps), total)]
        hover = "%{x:.1f} full evaluations<br>%{y:.1f} %, layers %{text}<extra></extra>"
        look = {"text": [layers_text(s.layers) for s in last], "width": width, "shape": "hv"}
        return line(name, x, hundredths([s.score for s in last]), colour, hover, **look)

    data = []
    if course.fast:
        data.append(staircase(course.fast, "best on the fast questions", GREY, 1.5))
    if course.full:
        data.append(staircase(course.full, "best on all questions", BLUE, 3))
    for number, other in enumerate(baselines):
        hover = "%{x:.0f} full evaluations<br>%{y:.1f} %<extra>" + other.name + "</extra>"
        colour, dash = SEARCHES[number % len(SEARCHES)], DASHES[number % len(DASHES)]
        x, y = [round(c, 2) for c in other.cost], hundredths(other.score)
        data.append(line(other.name, x, y, colour, hover, width=1.5, dash=dash, shape="hv"))
    end = max([total, *(min(b.cost[-1], 2 * total) for b in baselines)])
    shown = [y for trace in data for y in trace["y"]]
    span = max(max(shown) - min(shown), 2.0)
    # The lowest part of the plot is left to the names of the phases.
    scores = [min(shown) - 0.22 * span, max(shown) + 0.06 * span]
    best = course.full or course.fast
    phases = ", ".join(f"{p.phase} to {p.stop:.1f}" for p in course.phases)
    beside = f" Also drawn: {', '.join(b.name for b in baselines)}." if baselines else ""
    return Section(
        name="score-by-cost",
        title="Best score against cost",
        short="Score by cost",
        alt=(
            f"Staircase of the best score so far: {percent(best[-1].score)} with layers "
            f"{layers_text(best[-1].layers)} after {best[-1].cost:.1f} of {total:.1f} full "
            f"evaluations. Phases: {phases}.{beside}"
        ),
        note=(
            "One unit of cost is one layer set on all questions; shared prefixes save more. The "
            "best of many fast scores is biased upwards."
            + (
                " Broken lines: other searches, the median of several runs, which may ask all "
                "questions of any set."
                if baselines
                else ""
            )
        ),
        plot=plot(
            data,
            xaxis=axis("cost, full evaluations", range=[0, end * 1.02], showgrid=False),
            yaxis=axis("best score so far, %", range=scores),
            shapes=[shape for phase in course.phases for shape in _strip(phase)],
            annotations=[_label(phase, place) for place, phase in enumerate(course.phases)],
        ),
        height=460,
        head=("full evaluations", "best on all questions", "layers", "trial"),
        rows=[
            (f"{s.cost:.1f}", percent(s.score), layers_text(s.layers), s.trial)
            for s in best[:MOST_ROWS]
        ],
    )


def _strip(phase: PhaseCost) -> list[dict[str, Any]]:
    """A phase along the bottom of the plot, as wide as its cost, and a line at its start."""
    colour, common = PHASES.get(phase.phase, SOFT), {"xref": "x", "yref": "paper", "y0": 0}
    border = {"color": colour, "width": 1, "dash": "dot"}
    return [
        {"type": "rect", **common, "x0": phase.start, "x1": phase.stop, "y1": 0.025}
        | {"fillcolor": colour, "line": {"width": 0}},
        {"type": "line", **common, "x0": phase.start, "x1": phase.start, "y1": 1, "line": border},
    ]


def _label(phase: PhaseCost, place: int) -> dict[str, Any]:
    """The name of a phase above its strip; neighbours are at different heights."""
    where = {"xref": "x", "yref": "paper", "x": phase.start, "y": 0.03 + 0.06 * (place % 2)}
    look = {"xanchor": "left", "yanchor": "bottom", "font": {"color": SOFT, "size": 12}}
    return {**where, **look, "text": phase.phase, "showarrow": False}


def funnel_chart(view: StudyView) -> Section | None:
    """How many layer sets reached each step."""
    if not view.funnel.proposed:
        return None
    names, counts, meanings = zip(*view.funnel.steps(), strict=True)
    bars = {
        "type": "bar",
        "orientation": "h",
        "x": counts,
        "y": names,
        "text": [str(count) for count in counts],
        "textposition": "outside",
        "textfont": {"color": INK},
        "cliponaxis": False,
        "customdata": meanings,
        "marker": {
            "color": [GREY if name == "raced out" else BLUE for name in names],
            "cornerradius": 4,
        },
        "hovertemplate": "%{x} %{customdata}<extra></extra>",
        "showlegend": False,
    }
    found = ", ".join(f"{count} {name}" for name, count in zip(names, counts, strict=True))
    return Section(
        name="funnel",
        title="The funnel",
        short="Funnel",
        alt=f"Bars: {found} layer sets.",
        note="Few sets answer all questions: a part of them is enough to rule out most.",
        plot=plot(
            [bars],
            xaxis=axis("layer sets", range=[0, 1.12 * view.funnel.proposed]),
            yaxis=row_axis(names[::-1]),
        ),
        height=280,
        head=("step", "layer sets", "meaning"),
        rows=view.funnel.steps(),
    )


def cost_by_phase(view: StudyView) -> Section:
    """What each phase took, and what was saved."""
    course, sets, saved = view.course, view.funnel.evaluated, view.savings
    if not course.phases:
        note = "Nothing has been evaluated yet."
        return Section(name="cost", title="What it cost", short="Cost", note=note)
    note = f"A full evaluation is one layer set on all {max(1, view.n_full):,} questions."
    if saved.racing is not None:
        note += (
            f" Racing and fast questions first saved {percent(saved.racing)} of the questions of "
            f"evaluating all {sets:,} sets in full"
        )
        if saved.prefixes is not None:
            note += (
                f"; shared prefixes saved {percent(saved.prefixes)} of the remaining layer passes "
                f"({view.passes:,} were run, one layer on one question each)"
            )
        note += "."
    note += " The base, the donor and held-out questions are not included."
    return Section(
        name="cost",
        title="What it cost",
        short="Cost",
        note=note,
        sortable=False,
        **table(
            [*course.phases, course.total],
            {
                "phase": lambda p: p.phase,
                "trials": lambda p: p.trials,
                "layer sets": lambda p: p.sets,
                "questions": lambda p: f"{p.questions:,}",
                "full evaluations": lambda p: f"{p.stop - p.start:.1f}",
                "share": lambda p: percent((p.stop - p.start) / (course.total.stop or 1.0), 0),
                "time": lambda p: duration(p.seconds),
            },
        ),
    )
