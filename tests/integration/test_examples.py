"""The examples do what they say."""

from __future__ import annotations

import runpy
import subprocess
import sys

from optlayers.layerset import LayerSet
from tests.helpers.paths import ROOT

EXAMPLES = ROOT / "examples"


def test_the_sampler_alone_solves_another_subset_problem() -> None:
    study = runpy.run_path(str(EXAMPLES / "any_subset_problem.py"))["main"]()
    best = LayerSet.from_params(study.best_trial.params)
    assert {3, 8, 21, 30} & set(best.indices) == {3, 8, 21, 30}
    assert sum(t.state.name == "PRUNED" for t in study.trials) > 50


def test_it_needs_no_torch() -> None:
    code = (
        "import sys; sys.modules['torch'] = None; sys.argv = ['x'];"
        f"import runpy; runpy.run_path({str(EXAMPLES / 'any_subset_problem.py')!r})['main'](5)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert "best sensors" in done.stdout
