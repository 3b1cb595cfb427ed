"""`benchmarks/search/search.py` on a landscape from a file whose best set is known."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from optlayers.config.fields import Questions
from optlayers.evaluation.questions import Subject, order_questions
from optlayers.layerset import LayerSet, LayerSpace
from optlayers.testing import Landscape
from tests.helpers.commands import Commands, Done

Bench = Callable[..., Done]
SUBJECTS = [Subject("few", 40, 0.9), Subject("many", 200, 0.1)]
# What each layer answers of the first subject, and what each harms of the second.
WORTH = {1: 16, 3: 10, 0: 4, 2: 2}
LAYERS = 6


def write(path: Path, sets: list[LayerSet]) -> None:
    """A landscape in which layers 1 and 3 are best, by the weights that the file gives."""
    order = order_questions(SUBJECTS, Questions(fast=10))
    rank = np.zeros(order.n_full, dtype=np.int64)
    for subject in range(2):
        mine = np.flatnonzero(order.subject == subject)
        rank[mine] = np.argsort(np.argsort(order.document[mine]))
    answers = np.zeros((len(sets), order.n_full), dtype=np.bool_)
    for row, layers in enumerate(sets):
        worth = sum(WORTH.get(layer, 0) for layer in layers)
        few = order.subject == 0
        answers[row, few] = rank[few] < worth
        answers[row, ~few] = rank[~few] < 200 - 7 * worth
    Landscape.of(LAYERS, order, sets, answers).save(path)


@pytest.fixture
def bench(commands: Commands, tmp_path: Path) -> Bench:
    """Runs the program in a folder."""

    def run(*words: str) -> Done:
        words = ("--jobs", "1", "--seeds", "2", *words)
        return commands.module(tmp_path, "benchmarks.search.search", list(words))

    return run


def test_a_recorded_landscape_gets_a_row_for_every_search(bench: Bench, tmp_path: Path) -> None:
    write(tmp_path / "mine.npz", list(LayerSpace(LAYERS, 0, 2)))
    searches = ["optlayers", "greedy addition", "exhaustive"]
    words = ["--landscapes", "mine.npz", "--searches", *searches]
    code, out, err = bench(*words)
    assert code == 0, err
    rows = [line for line in out.splitlines() if line.startswith("|")]
    assert rows[0] == "| search | mine |"
    # All 21 sets at once, or 6 singles and the 5 others that hold the best of them.
    assert "| exhaustive | 21 (21 to 21) |" in rows
    assert "| greedy addition | 11 (11 to 11) |" in rows
    [row] = [row for row in rows[: len(rows) // 2] if row.startswith("| optlayers |")]
    assert 0 < int(row.split()[3]) <= 21
    assert "missed" not in row


def test_a_pairs_recording_is_what_its_models_answer(
    bench: Bench, commands: Commands, tiny_study: Path, tmp_path: Path
) -> None:
    import torch

    from optlayers.config.study import load_study
    from optlayers.evaluation.evaluator import ModelEvaluator

    module = "studies.demo.build.make_landscape"
    words = ["--study", str(tiny_study), "--out", str(tmp_path / "tiny.npz"), "--workers", "1"]
    done = commands.module(tmp_path, module, words)
    assert done.code == 0, done.err
    assert "best of 3: " in done.out
    real = tmp_path / "real.yaml"
    real.write_text(tiny_study.read_text().replace("demo}", "demo, metric: logprob}"))
    refused = commands.module(tmp_path, module, ["--study", str(real), *words[2:]])
    assert refused.code == 2
    assert "expected one donor and tasks that are right or wrong" in refused.err.splitlines()[-1]
    found = Landscape.load(tmp_path / "tiny.npz")
    sets = list(LayerSpace(LAYERS, 0, 3))
    assert list(found.index) == sets
    evaluator = ModelEvaluator(load_study(str(tiny_study)), torch.device("cpu"), torch.float32)
    answers = evaluator.evaluate(sets, 0, evaluator.order.n_full)
    np.testing.assert_array_equal(found.answers, np.stack([np.asarray(row) for row in answers]))
    code, out, err = bench("--landscapes", "tiny.npz", "--searches", "exhaustive")
    assert code == 0, err
    assert "| exhaustive | 41 (41 to 41) |" in out


@pytest.mark.parametrize("most", [1, 2, 3])
def test_all_searches_run_on_a_landscape_of_small_sets(
    bench: Bench, tmp_path: Path, most: int
) -> None:
    write(tmp_path / "mine.npz", list(LayerSpace(LAYERS, 0, most)))
    code, out, err = bench("--landscapes", "mine.npz")
    assert code == 0, err
    for search in ("optlayers", "predecessor's GA", "TPE", "NSGA-II", "beam of 3"):
        assert f"| {search} |" in out


def test_what_is_recorded_is_drawn_anew_without_a_run(bench: Bench, tmp_path: Path) -> None:
    write(tmp_path / "mine.npz", list(LayerSpace(LAYERS, 0, 2)))
    searches = ["--searches", "optlayers", "greedy addition"]
    code, _, err = bench("--landscapes", "mine.npz", *searches, "--out", "made")
    assert code == 0, err
    files = {path.name: path.read_bytes() for path in (tmp_path / "made").iterdir()}
    assert set(files) == {"search.json", "search.md", "search.svg"}
    # One panel, two searches: a median and the quartiles' shade of each.
    assert files["search.svg"].count(b'id="FillBetweenPolyCollection') == 2
    for name in ("search.md", "search.svg"):
        (tmp_path / "made" / name).unlink()
    (tmp_path / "mine.npz").unlink()
    code, _, err = bench("--draw", "--out", "made")
    assert code == 0, err
    assert {path.name: path.read_bytes() for path in (tmp_path / "made").iterdir()} == files
    code, _, err = bench("--draw", "--out", "elsewhere")
    assert code == 2
    assert "--draw needs --out with a folder that holds search.json" in err.splitlines()[-1]


def test_the_best_set_is_that_of_the_weights_in_the_file(tmp_path: Path) -> None:
    from benchmarks.lib.landscapes import recorded

    write(tmp_path / "mine.npz", list(LayerSpace(LAYERS, 1, 2)))
    known, truth = recorded(tmp_path / "mine.npz"), Landscape.load(tmp_path / "mine.npz").scores()
    for layers, row in known.index.items():
        assert known.scores[row] == pytest.approx(truth[layers], abs=1e-12)
        assert known.scorer().score(known.of(layers, known.n_full)) == pytest.approx(truth[layers])
    assert max(truth, key=lambda layers: truth[layers]) == LayerSet.of(1, 3)
    assert known.best == pytest.approx(truth[LayerSet.of(1, 3)])
    assert known.n_fast == 20
    # With equal weights another set would be the best.
    known.weights = None
    del known.__dict__["scores"]
    assert list(known.index)[int(np.argmax(known.scores))] != LayerSet.of(1, 3)


def test_a_landscape_that_is_none_or_not_whole_is_one_line(bench: Bench, tmp_path: Path) -> None:
    write(tmp_path / "holes.npz", list(LayerSpace(LAYERS, 0, 2))[:-1])
    (tmp_path / "text.npz").write_text("answers")
    cases = {
        "holes.npz": "landscape holes.npz: layer set 4,5 is not in it; record every set of 1 to 2",
        "text.npz": "landscape text.npz: ",
        "nowhere.npz": "landscape nowhere.npz: ",
        "somewhere": "landscape 'somewhere': expected smollm2, demo, dominant",
    }
    for name, words in cases.items():
        code, out, err = bench("--landscapes", name)
        assert (code, out) == (2, "")
        assert words in err.splitlines()[-1]
        assert "Traceback" not in err
