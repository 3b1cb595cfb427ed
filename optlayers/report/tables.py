"""The lead, the tiles, and the sections of a report that consist of a table only."""

from __future__ import annotations

from typing import NamedTuple

from optlayers.config.metrics import REAL_METRICS, describe
from optlayers.config.study import StudyDefinition
from optlayers.report.formats import duration, interval, layers_text, p_text, percent, points
from optlayers.report.section import Section, table
from optlayers.results.leaderboard import LeaderboardRow
from optlayers.results.view import StudyView
from optlayers.trials.ranking import MAX_FAILURES

MOST_REASONS = 20


class Tile(NamedTuple):
    """A number at the head of the report."""

    name: str
    value: str
    more: str = ""


def question(definition: StudyDefinition, quote: str = "", of: str = "") -> str:
    """What a study searches for, as a sentence; quote: around the names of models."""
    several = definition.donors is not None
    donors = [
        f"{quote}{spec.model}{f' ({name})' if several else ''}{quote}"
        for spec, name in zip(definition.donor_specs, definition.donor_names, strict=True)
    ]
    least, most, parts = definition.layers.min, definition.layers.max, definition.graft.parts
    base = f"{quote}{definition.base.model}{quote}"
    return f"Which {least} to {most}{of} {parts} of {' and '.join(donors)} to put into {base}."


def lead(view: StudyView) -> str:
    """The study and its result in a few sentences."""
    what = question(view.definition, of=f" of {view.n_layers}" if view.n_layers else "")
    if not view.compared:
        return f"{what} Nothing has been evaluated yet."
    best, tied = view.compared[0], sum(row.tied for row in view.compared) - 1
    ties = {0: "no other set is", 1: "one other set is"}.get(tied, f"{tied} other sets are")
    state = "Finished." if view.phase == "done" else f"In progress, phase {view.phase}."
    metrics = [task.metric for task in view.definition.tasks]
    score = describe(metrics, best.score)
    if score is None and any(metric in REAL_METRICS for metric in metrics):
        score = f"a score of {percent(best.score)}"
    asked = f"{best.questions:,} questions"
    found = f"{score} on {asked}" if score else f"{percent(best.score)} of {asked} right"
    layers = layers_text(best.layers)
    return f"{what} {state} Best: layers {layers} with {found}; {ties} statistically tied with it."


def tiles(view: StudyView) -> list[Tile]:
    """Best score, base and donor, cost, savings."""
    found: list[Tile] = []
    best = view.compared[0] if view.compared else None
    held = best.held_out if best else None
    if best is not None:
        found.append(Tile("best layers", layers_text(best.layers), f"trial {best.trial}"))
        found.append(Tile("score", percent(best.score), interval(best.ci_low, best.ci_high)))
    if held is not None:
        span = interval(held.ci_low, held.ci_high)
        found.append(Tile("on held-out questions", percent(held.score), span))
    for reference in view.references.values():
        span = interval(reference.ci_low, reference.ci_high)
        found.append(Tile(f"{reference.title} alone", percent(reference.score), span))
    course, saved, workers = view.course, view.savings, len(view.workers)
    price = f"for the cost of {course.total.stop:.0f} full evaluations"
    time = duration(course.total.seconds) if course.total.seconds else ""
    if view.funnel.evaluated:
        more = f", in {time}" if held is not None and time else ""
        found.append(Tile("layer sets", f"{view.funnel.evaluated:,}", price + more))
    if saved.together is not None:
        parts = [f"{percent(saved.racing, 0)} by racing"]
        if saved.prefixes is not None:
            parts.append(f"{percent(saved.prefixes, 0)} of the rest by shared prefixes")
        found.append(Tile("work saved", percent(saved.together, 0), ", ".join(parts)))
    if held is None and time:
        by = f"{workers} worker{'s' * (workers > 1)}" if workers else ""
        found.append(Tile("time", time, by))
    return found


def leaderboard_table(view: StudyView, most: int) -> Section:
    """The first rows of the leaderboard."""
    rows = view.compared[:most]
    if not rows:
        note = "No layer set has been evaluated yet."
        return Section(name="leaderboard", title="Leaderboard", note=note)
    left = len(view.compared) - len(rows)
    held = any(row.held_out for row in rows)
    over = any(row.comparison and row.comparison.to_base for row in rows)

    def over_base(row: LeaderboardRow) -> str:
        found = row.comparison.to_base if row.comparison else None
        return points(found.difference if found else None)

    def asked(row: LeaderboardRow) -> str:
        return f"{row.questions:,}" + (f" of {view.n_full:,}" if row.fidelity == "fast" else "")

    return Section(
        name="leaderboard",
        title="Leaderboard",
        note=(
            f"The best of {view.funnel.evaluated:,} layer sets, from {view.question_evaluations:,} "
            "answers. The best of many scores is partly luck"
            + ("; a held-out score, on questions that no decision has seen, is not" if held else "")
            + f". Sets on all {view.n_full:,} questions come before those on part of them. Behind: "
            "the difference to the first in points, on the same questions. Tied: it is not "
            "significant (p above 0.05)."
            + (" Over base: the difference to the base alone in points." if over else "")
            + (f" The other {left:,} are in the JSON report." if left else "")
        ),
        **table(
            rows,
            {
                "rank": lambda r: r.rank,
                "layers": lambda r: layers_text(r.layers),
                "size": lambda r: r.n_layers,
                "score": lambda r: percent(r.score),
                "95 % interval": lambda r: interval(r.ci_low, r.ci_high),
                "behind": lambda r: points(r.behind),
                "p": lambda r: p_text(r.p_value),
                "tied": lambda r: "tied" if r.tied else "",
                "over base": over_base,
                "held-out": lambda r: percent(r.held_out.score if r.held_out else None),
                "questions": asked,
                "phase": lambda r: r.record.phase,
                "trial": lambda r: r.trial,
            },
        ),
    )


def held_out_table(view: StudyView) -> Section | None:
    """The held-out scores next to the scores in the search; None if there are none."""
    if not view.held_out:
        return None
    search = {tuple(row.layers): row.score for row in view.leaderboard}
    rows = []
    for found in view.held_out:
        seen = search.get(tuple(found.layers))
        if found.name in view.references:
            seen = view.references[found.name].score
        layers = "all" if found.name in view.donors else layers_text(found.layers)
        span, change = interval(found.ci_low, found.ci_high), seen and found.score - seen
        rows.append((found.name, layers, percent(seen), percent(found.score), span, points(change)))
    return Section(
        name="held-out",
        title="Held-out check",
        note=(
            f"{view.held_out[0].questions} questions that no decision has seen. The search score "
            "of the best of many is biased upwards; this one is not."
        ),
        head=("set", "layers", "search score", "held-out score", "95 % interval", "change, points"),
        rows=rows,
    )


def failures_table(view: StudyView) -> Section | None:
    """Why trials ended without a result; None if all have one."""
    if not view.failures:
        return None
    shown = view.failures[:MOST_REASONS]
    left = len(view.failures) - len(shown)
    return Section(
        name="failures",
        title="Trials without a result",
        short="Without a result",
        note=(
            f"A layer set that fails {MAX_FAILURES} times by its own fault is not tried again. A "
            "layer set whose worker left or was lost is evaluated by another worker."
            + (f" {left} more reasons are in the JSON report." if left else "")
        ),
        **table(
            shown,
            {
                "trials": lambda f: f.trials,
                "outcome": lambda f: "returned to the queue" if f.returned else "failed",
                "reason": lambda f: f.reason,
                "for example layers": lambda f: layers_text(f.layers),
            },
        ),
    )


def workers_table(view: StudyView) -> Section:
    """What each worker did, and how fast."""
    return Section(
        name="machines",
        title="Workers and hardware",
        short="Hardware and versions",
        note="" if view.workers else "The workers of this study stored no state.",
        **table(
            view.workers,
            {
                "machine": lambda w: w.host,
                "device": lambda w: w.device,
                "hardware": lambda w: w.hardware,
                "questions": lambda w: f"{w.questions:,}",
                "questions/s": lambda w: f"{w.questions / w.seconds if w.seconds else 0.0:,.0f}",
                "layer passes/s": lambda w: f"{w.passes / w.seconds if w.seconds else 0.0:,.0f}",
                "evaluating": lambda w: duration(w.seconds),
                "last state": lambda w: w.state,
            },
        ),
    )


def versions_table(view: StudyView) -> Section | None:
    """The versions that the workers ran; where they differ, all of them."""
    found: dict[str, dict[str, None]] = {}
    for worker in view.workers:
        for name, version in worker.versions.items():
            found.setdefault(name, {})[version] = None
    rows = [(name, ", ".join(versions)) for name, versions in found.items()]
    if not rows:
        return None
    head = ("package", "version")
    return Section(name="versions", title="Versions", head=head, rows=rows, sortable=False)
