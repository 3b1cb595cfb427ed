"""The tables and sentences of a report, as plain cells for HTML and Markdown alike."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from optlayers.config.graft import Graft
from optlayers.config.metrics import REAL, describe
from optlayers.layerset import sortable
from optlayers.report.figure import chance, given_by, interval, percent, points, shown
from optlayers.results.leaderboard import LeaderboardRow
from optlayers.results.view import StudyView
from optlayers.trials.records import MAX_FAILURES

Cells = list[Any]
MOST_REASONS = 20


@dataclass(frozen=True)
class Table:
    """A table: its cells are texts, numbers, or {text, sort}; None is empty."""

    head: list[str]
    rows: list[Cells] = field(default_factory=list)
    note: str = ""
    caption: str = ""


@dataclass(frozen=True)
class Tile:
    """One number that everybody asks for."""

    name: str
    value: str
    more: str = ""


def cell(text: str, sort: float | str | None) -> dict[str, Any]:
    """A cell that sorts by another value than it shows."""
    return {"text": text, "sort": "" if sort is None else sort}


def duration(seconds: float) -> str:
    """`54 s`, `12 min`, `3 h 20 min`."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 90 else f"{minutes // 60} h {minutes % 60:02d} min"


def lead(view: StudyView) -> str:
    """The study and its result in two sentences."""
    definition = view.definition.to_dict()
    base, donor = definition["base"]["model"], " and ".join(given_by(definition))
    budget, parts = definition["layers"], Graft(definition["swap"]).parts
    of = f" of {view.n_layers}" if view.n_layers else ""
    what = f"Which {budget['min']} to {budget['max']}{of} {parts} of {donor} to put into {base}."
    best = view.compared[0] if view.compared else None
    if best is None:
        return f"{what} Nothing has been evaluated yet."
    row = best
    tied = sum(e.tied for e in view.compared) - 1
    ties = {0: "no other set is", 1: "one other set is"}.get(tied, f"{tied} other sets are")
    state = "Finished." if view.phase == "done" else f"Under way, phase {view.phase}."
    end = f"; {ties} statistically tied with it" if best.tied else ""
    metrics = [task["metric"] for task in definition["tasks"]]
    words = describe(metrics, row.score)
    if words is not None:
        found = f"{words} on {row.questions:,} questions"
    elif any(metric in REAL for metric in metrics):
        found = f"a score of {percent(row.score)} on {row.questions:,} questions"
    else:
        found = f"{percent(row.score)} of {row.questions:,} questions right"
    return f"{what} {state} Best: layers {shown(row.layers)} with {found}{end}."


def tiles(view: StudyView) -> list[Tile]:
    """Best score, base and donor, cost, savings."""
    found: list[Tile] = []
    best = view.compared[0] if view.compared else None
    held = best.held_out if best else None
    if best is not None:
        row = best
        found.append(Tile("best layers", shown(row.layers), f"trial {row.trial}"))
        span = interval(row.ci_low, row.ci_high)
        found.append(Tile("score", percent(row.score), span))
        if held is not None:
            span = interval(held.ci_low, held.ci_high)
            found.append(Tile("on held-out questions", percent(held.score), span))
    for reference in view.references.values():
        span = interval(reference.ci_low, reference.ci_high)
        found.append(Tile(f"{reference.title} alone", percent(reference.score), span))
    course = view.course
    price = f"for the price of {course.cost:.0f} full evaluations"
    if held is not None and course.seconds:
        price += f", in {duration(course.seconds)}"
    if view.funnel.evaluated:
        found.append(Tile("layer sets", f"{view.funnel.evaluated:,}", price))
    if view.savings.together is not None:
        parts = [f"{percent(view.savings.racing, 0)} by racing"]
        if view.savings.prefixes is not None:
            parts.append(f"{percent(view.savings.prefixes, 0)} of the rest by shared prefixes")
        found.append(Tile("work saved", percent(view.savings.together, 0), ", ".join(parts)))
    if held is None and course.seconds:
        found.append(Tile("time", duration(course.seconds), _hands(len(view.workers))))
    return found


def _hands(workers: int) -> str:
    return "" if not workers else "1 worker" if workers == 1 else f"{workers} workers"


def leaderboard_table(view: StudyView, most: int) -> Table:
    """The first rows of the leaderboard."""
    shown_rows = view.compared[:most]
    held = any(e.held_out for e in shown_rows)
    over = any(e.comparison and e.comparison.to_base for e in shown_rows)
    rows = [_leader(row, view.n_full, held, over) for row in shown_rows]
    left = len(view.compared) - len(rows)
    more = f" The {left:,} that follow are in the JSON report." if left > 0 else ""
    if not rows:
        return Table(head=[], note="No layer set has been evaluated yet.")
    lucky = "The first of many is partly lucky" + (
        ", and its held-out score, on questions that no decision has seen, is not." if held else "."
    )
    return Table(
        head=[
            "rank",
            "layers",
            "size",
            "score",
            "95 % interval",
            "behind",
            "p",
            "tied",
            *(["over base"] if over else []),
            *(["held-out"] if held else []),
            "questions",
            "phase",
            "trial",
        ],
        rows=rows,
        note=(
            f"The best of {view.funnel.evaluated:,} layer sets, from {view.course.questions:,} "
            f"answers. {lucky} Sets on all {view.n_full:,} questions stand before those on part "
            "of them. Behind: points less than the first, on the same questions; tied: that may "
            "well be chance (p above 0.05)."
            + (" Over base: points more than the base alone." if over else "")
            + more
        ),
        caption=f"The best {len(rows)} of {len(view.compared):,} layer sets",
    )


def _leader(row: LeaderboardRow, n_full: int, with_held_out: bool, with_base: bool) -> Cells:
    more = row.comparison
    over = more.to_base.difference if more and more.to_base else None
    held = row.held_out.score if row.held_out else None
    asked = f"{row.questions:,}" + ("" if row.fidelity == "full" else f" of {n_full:,}")
    return [
        row.rank,
        cell(shown(row.layers), sortable(row.layers, 3)),
        row.n_layers,
        cell(percent(row.score), row.score),
        cell(interval(row.ci_low, row.ci_high), row.ci_low),
        cell(points(row.behind), row.behind),
        cell(chance(row.p_value), row.p_value),
        "tied" if row.tied else "",
        *([cell(points(over), over)] if with_base else []),
        *([cell(percent(held), held)] if with_held_out else []),
        cell(asked, row.questions),
        row.record.phase,
        row.trial,
    ]


def held_out_table(view: StudyView) -> Table | None:
    """The held-out check, beside the score that the search saw; None where there is none."""
    if not view.held_out:
        return None
    known = {tuple(e.layers): e.score for e in view.compared}
    rows: list[Cells] = []
    for found in view.held_out:
        seen = known.get(tuple(found.layers))
        if found.name in view.references:
            seen = view.references[found.name].score
        layers = "all" if found.name in view.donors else shown(found.layers)
        span = interval(found.ci_low, found.ci_high)
        drop = None if seen is None else found.score - seen
        rows.append([found.name, layers, percent(seen), percent(found.score), span, points(drop)])
    return Table(
        head=["set", "layers", "search score", "held-out score", "95 % interval", "change, points"],
        rows=rows,
        note=(
            f"{view.held_out[0].questions} questions that no decision has seen. The search score "
            "of the best of many flatters; this one does not."
        ),
    )


def cost_table(view: StudyView) -> Table:
    """What each phase took, and what was saved."""
    if not view.course.phases:
        return Table(head=[], note="Nothing has been evaluated yet.")
    unit = max(1, view.n_full)
    whole = view.course
    rows: list[Cells] = [
        [
            p.phase,
            p.trials,
            p.sets,
            f"{p.questions:,}",
            f"{p.stop - p.start:.1f}",
            percent((p.stop - p.start) / whole.cost if whole.cost else None, 0),
            duration(p.seconds),
        ]
        for p in whole.phases
    ]
    rows.append(
        [
            "all",
            sum(p.trials for p in whole.phases),
            view.funnel.evaluated,
            f"{whole.questions:,}",
            f"{whole.cost:.1f}",
            percent(1.0, 0),
            duration(whole.seconds),
        ]
    )
    saved = view.savings
    note = f"A full evaluation is one layer set on all {unit:,} questions."
    if saved.racing is not None:
        note += (
            f" Racing, and fast questions first, spared {percent(saved.racing)} of what evaluating "
            f"all {view.funnel.evaluated:,} sets in full would ask"
        )
        if saved.prefixes is not None:
            passes = sum(w.passes for w in view.workers)
            note += (
                f"; prefixes that hybrids share spared {percent(saved.prefixes)} of the layer "
                f"passes of the rest ({passes:,} were run, one layer on one question each)"
            )
        note += "."
    note += " The base, the donor and held-out questions come on top."
    return Table(
        head=["phase", "trials", "layer sets", "questions", "full evaluations", "share", "time"],
        rows=rows,
        note=note,
    )


def failures_table(view: StudyView) -> Table | None:
    """Why trials ended without a result; None where all have one."""
    if not view.failures:
        return None
    rows: list[Cells] = [
        [
            f.trials,
            "went back to the queue" if f.returned else "failed",
            f.reason,
            shown(f.layers),
        ]
        for f in view.failures[:MOST_REASONS]
    ]
    left = len(view.failures) - len(rows)
    return Table(
        head=["trials", "what became of them", "reason", "for example layers"],
        rows=rows,
        note=(
            f"A layer set that fails {MAX_FAILURES} times by its own fault is given up; one whose "
            "worker left or was lost is evaluated by another."
            + (f" {left} more reasons are in the JSON report." if left else "")
        ),
    )


def workers_table(view: StudyView) -> Table:
    """Who worked on what, and how fast."""
    rows: list[Cells] = []
    for worker in view.workers:
        rate = worker.questions / worker.seconds if worker.seconds else 0.0
        passes = worker.passes / worker.seconds if worker.seconds else 0.0
        rows.append(
            [
                worker.host,
                worker.device,
                worker.hardware,
                f"{worker.questions:,}",
                f"{rate:,.0f}",
                f"{passes:,.0f}",
                duration(worker.seconds),
                worker.state,
            ]
        )
    return Table(
        head=[
            "machine", "device", "hardware", "questions", "questions/s", "layer passes/s",
            "evaluating", "last word",
        ],
        rows=rows,
    )  # fmt: skip


def versions_table(view: StudyView) -> Table:
    """The versions that the workers ran; where they differ, all of them."""
    found: dict[str, list[str]] = {}
    for worker in view.workers:
        for name, version in worker.versions.items():
            if version not in found.setdefault(name, []):
                found[name].append(version)
    return Table(head=["package", "version"], rows=[[n, ", ".join(v)] for n, v in found.items()])
