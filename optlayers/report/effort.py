"""Figures of effort: best score against cost, and the funnel."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from optlayers.report.baselines import Baseline
from optlayers.report.figure import Figure, hundredths, percent, shown
from optlayers.report.theme import BLUE, GREY, INK, PHASES, SEARCHES, SOFT, axis, layout
from optlayers.results.course import Step
from optlayers.results.view import StudyView

MOST_ROWS = 300
DASHES = ("dot", "dash", "dashdot", "9px 3px")


def _line(steps: list[Step], end: float, name: str, colour: str, width: float) -> dict[str, Any]:
    """A staircase to the end of the search."""
    return {
        "type": "scatter",
        "mode": "lines",
        "name": name,
        "x": [round(s.cost, 3) for s in steps] + [round(end, 3)],
        "y": hundredths([s.score for s in steps] + [steps[-1].score]),
        "text": [shown(s.layers) for s in [*steps, steps[-1]]],
        "line": {"shape": "hv", "color": colour, "width": width},
        "hovertemplate": "%{x:.1f} full evaluations<br>%{y:.1f} %, layers %{text}<extra></extra>",
    }


def _room(data: list[dict[str, Any]]) -> list[float]:
    """A range for the scores that leaves the lowest part of the picture to the phases' names."""
    scores = [y for trace in data for y in trace["y"]]
    low, high = min(scores), max(scores)
    span = max(high - low, 2.0)
    return [low - 0.22 * span, high + 0.06 * span]


def score_by_cost(view: StudyView, baselines: Sequence[Baseline] = ()) -> Figure | None:
    """Best score against cost, with the phases marked, and baselines where they were run."""
    course = view.course
    if not course.full and not course.fast:
        return None
    data: list[dict[str, Any]] = []
    end = max([course.cost, *(min(line.cost[-1], 2 * course.cost) for line in baselines)])
    if course.fast:
        data.append(_line(course.fast, course.cost, "best on the fast questions", GREY, 1.5))
    if course.full:
        data.append(_line(course.full, course.cost, "best on all questions", BLUE, 3))
    for number, line in enumerate(baselines):
        data.append(
            {
                "type": "scatter",
                "mode": "lines",
                "name": line.name,
                "x": [round(c, 2) for c in line.cost],
                "y": hundredths(line.score),
                "line": {
                    "shape": "hv",
                    "color": SEARCHES[number % len(SEARCHES)],
                    "width": 1.5,
                    "dash": DASHES[number % len(DASHES)],
                },
                "hovertemplate": "%{x:.0f} full evaluations<br>%{y:.1f} %<extra>"
                + line.name
                + "</extra>",
            }
        )
    shapes: list[dict[str, Any]] = []
    labels: list[dict[str, Any]] = []
    for phase in course.phases:
        colour = PHASES.get(phase.phase, SOFT)
        # A strip along the bottom: the phases in their order, as wide as they cost.
        shapes.append(
            {
                "type": "rect",
                "xref": "x",
                "yref": "paper",
                "x0": phase.start,
                "x1": phase.stop,
                "y0": 0,
                "y1": 0.025,
                "fillcolor": colour,
                "line": {"width": 0},
            }
        )
        shapes.append(
            {
                "type": "line",
                "xref": "x",
                "yref": "paper",
                "x0": phase.start,
                "x1": phase.start,
                "y0": 0,
                "y1": 1,
                "line": {"color": colour, "width": 1, "dash": "dot"},
            }
        )
        labels.append(
            {
                "xref": "x",
                "yref": "paper",
                "x": phase.start,
                "y": 0.03 + 0.06 * (len(labels) % 2),
                "xanchor": "left",
                "yanchor": "bottom",
                "text": phase.phase,
                "showarrow": False,
                "font": {"color": SOFT, "size": 12},
            }
        )
    reached = course.full[-1] if course.full else course.fast[-1]
    beside = ", ".join(line.name for line in baselines)
    return Figure(
        name="score-by-cost",
        title="Best score against cost",
        short="Score by cost",
        alt=(
            f"Stairs of the best score so far. {percent(reached.score)} with layers "
            f"{shown(reached.layers)} after {reached.cost:.1f} of {course.cost:.1f} full "
            f"evaluations. Phases: "
            + ", ".join(f"{p.phase} to {p.stop:.1f}" for p in course.phases)
            + (f". Beside it: {beside}." if beside else ".")
        ),
        note=(
            "One unit of cost is one layer set on all questions; shared prefixes save on top of "
            "it. The best of many on the fast questions flatters."
            + (
                " Broken lines: other searches, the median of several runs, allowed to ask all "
                "questions of any set."
                if baselines
                else ""
            )
        ),
        plot={
            "data": data,
            "layout": layout(
                xaxis=axis("cost, full evaluations", range=[0, end * 1.02], showgrid=False),
                yaxis=axis("best score so far, %", range=_room(data)),
                shapes=shapes,
                annotations=labels,
            ),
        },
        height=460,
        head=("full evaluations", "best on all questions", "layers", "trial"),
        rows=[
            (f"{s.cost:.1f}", percent(s.score), shown(s.layers), s.trial)
            for s in (course.full or course.fast)[:MOST_ROWS]
        ],
    )


def funnel_chart(view: StudyView) -> Figure | None:
    """How many layer sets came how far."""
    steps = view.funnel.steps()
    if not view.funnel.proposed:
        return None
    names = [name for name, _, _ in steps]
    return Figure(
        name="funnel",
        title="The funnel",
        short="Funnel",
        alt="Bars: " + ", ".join(f"{count} {name}" for name, count, _ in steps) + " layer sets.",
        note="Few sets answer every question: most are told apart on a part of them.",
        plot={
            "data": [
                {
                    "type": "bar",
                    "orientation": "h",
                    "y": names,
                    "x": [count for _, count, _ in steps],
                    "text": [str(count) for _, count, _ in steps],
                    "textposition": "outside",
                    "cliponaxis": False,
                    "textfont": {"color": INK},
                    "customdata": [meaning for _, _, meaning in steps],
                    "marker": {
                        "color": [GREY if name == "raced out" else BLUE for name in names],
                        "cornerradius": 4,
                    },
                    "hovertemplate": "%{x} %{customdata}<extra></extra>",
                    "showlegend": False,
                }
            ],
            "layout": layout(
                xaxis=axis("layer sets", range=[0, 1.12 * view.funnel.proposed]),
                yaxis=axis(
                    "",
                    type="category",
                    categoryorder="array",
                    categoryarray=names[::-1],
                    showgrid=False,
                ),
            ),
        },
        height=280,
        head=("step", "layer sets", "meaning"),
        rows=steps,
    )
