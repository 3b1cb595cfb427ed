"""Set-ups for both tiers: the tiny pair of models, a study over it, and a finished replay."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from optlayers.checkpoints.parents import Parents
    from optlayers.config.study import StudyDefinition
    from optlayers.evaluation.evaluator import ModelEvaluator
    from tests.helpers.finished import Finished

pytest.register_assert_rewrite("tests.helpers")

# Tests never reach for the network: a name that is not a folder fails at once.
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
# Models this small lose more to waiting threads than they win, the more so beside other work.
os.environ.setdefault("OMP_NUM_THREADS", "1")

# A suite that a script starts in the background is born with SIGINT ignored; tests send Ctrl-C.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)
# And under `nohup` with SIGHUP ignored, as every process that it starts would be.
if signal.getsignal(signal.SIGHUP) is signal.SIG_IGN:
    signal.signal(signal.SIGHUP, signal.SIG_DFL)


@pytest.fixture(scope="session")
def tiny_pair(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with `base/` (Llamba) and `donor/` (Llama, with the tokenizer); equal ends."""
    from tests.helpers.tiny import make_tiny_pair

    return make_tiny_pair(tmp_path_factory.mktemp("tiny_pair"))


@pytest.fixture(scope="session")
def tiny_parents(tiny_pair: Path) -> Parents:
    """The tiny pair, opened."""
    from tests.helpers.tiny import parents_in

    return parents_in(tiny_pair)


@pytest.fixture(scope="session")
def tiny_study(tiny_pair: Path) -> Path:
    """A study file over the tiny pair and the demo's tasks; takes seconds to search."""
    from tests.helpers.tiny import make_tiny_study

    return make_tiny_study(tiny_pair)


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder for converted weights."""
    from optlayers.inference.converted import FOLDER

    monkeypatch.setenv("OPTLAYERS_MODELS", str(tmp_path / "models"))
    return tmp_path / "models" / FOLDER


@pytest.fixture(scope="module")
def evaluator(definition: StudyDefinition) -> ModelEvaluator:
    """An evaluator of the module's `definition` on the CPU, in float32."""
    import torch

    from optlayers.evaluation.evaluator import ModelEvaluator

    return ModelEvaluator(definition, torch.device("cpu"), torch.float32)


@pytest.fixture(scope="session")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Finished:
    """A replayed search that is done, with its report (`finished.Finished`)."""
    from tests.helpers.finished import make_in

    return make_in(tmp_path_factory.mktemp("finished"))
