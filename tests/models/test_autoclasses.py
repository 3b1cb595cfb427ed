"""`import optlayers` is enough for transformers' Auto classes: in any order, without trust."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
import torch
from fresh import run_fresh
from recurrence import published_checkpoint
from safetensors.torch import save_file

from optlayers.checkpoints.reader import Checkpoint
from optlayers.checkpoints.writer import export_hybrid
from optlayers.layerset import LayerSet

AUTO = "transformers.models.auto.configuration_auto"


@pytest.fixture(scope="module")
def folders(tiny_pair: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`hybrid`, an export; `published` and `old`, a Llamba whose config has a model type or not."""
    there = tmp_path_factory.mktemp("folders")
    base, donor = (Checkpoint(name, tiny_pair / name) for name in ("base", "donor"))
    export_hybrid(base, donor, LayerSet.of(1, 4), there / "hybrid", donor.folder, {})
    config, weights = published_checkpoint(tied=False)
    tensors = {name: torch.tensor(w, dtype=torch.float32) for name, w in weights.items()}
    for name, more in (("published", {"model_type": "llamba"}), ("old", {})):
        (there / name).mkdir()
        (there / name / "config.json").write_text(json.dumps({**config, **more}))
        save_file(tensors, there / name / "model.safetensors", metadata={"format": "pt"})
    return there


def run(code: str, *arguments: str) -> str:
    """What some lines print in a fresh process."""
    return run_fresh(code, *arguments, env={**os.environ, "HF_HUB_OFFLINE": "1"})


ORDERS = {
    "optlayers first": "import optlayers, transformers",
    "transformers first": "import transformers, optlayers",
    "models first": "from transformers import AutoModelForCausalLM; import optlayers",
    "both at once": """
import threading
def bring(name):
    barrier.wait()
    exec(name)
barrier = threading.Barrier(2)
lines = "import optlayers", "from transformers import AutoModelForCausalLM"
threads = [threading.Thread(target=bring, args=(line,)) for line in lines]
[thread.start() for thread in threads]
[thread.join() for thread in threads]
""",
}

LOAD = """
import sys
assert "optlayers.models" not in sys.modules
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer
assert "optlayers.models" not in sys.modules, "it is loaded only when it is needed"
tokenizer = AutoTokenizer.from_pretrained(sys.argv[1] + "/hybrid")
assert tokenizer("Question").input_ids
for name, expected in (("hybrid", "Hybrid"), ("published", "Llamba"), ("old", "Llamba")):
    folder = f"{sys.argv[1]}/{name}"
    config = AutoConfig.from_pretrained(pretrained_model_name_or_path=folder)
    assert type(config).__name__ == f"{expected}Config", config
    config, rest = AutoConfig.from_pretrained(folder, return_unused_kwargs=True, other=3)
    assert rest == {"other": 3}, rest
    model, report = AutoModelForCausalLM.from_pretrained(folder, output_loading_info=True)
    assert not report["missing_keys"]
    assert type(model).__name__ == f"{expected}ForCausalLM"
    assert type(model).__module__.startswith("optlayers.models."), type(model)
made = AutoConfig.for_model("llamba", d_model=16, n_layer=2)
assert (type(made).__module__, made.n_layer) == ("optlayers.models.llamba", 2)
"""


@pytest.mark.parametrize("order", ORDERS)
def test_checkpoints_load_in_any_order_of_imports(folders: Path, order: str) -> None:
    run(ORDERS[order] + LOAD, str(folders))


UNTOUCHED = f"""
import importlib, json, sys
import optlayers
sys.modules["optlayers.models"] = None  # as where torch is broken
from transformers import AutoConfig, AutoModelForCausalLM
folder, donor = sys.argv[1:]
assert type(AutoConfig.from_pretrained(donor)).__name__ == "LlamaConfig"
auto = sys.modules["{AUTO}"]
for given in (auto.__loader__, auto.__spec__.loader):
    assert type(given).__module__ == "_frozen_importlib_external", given
for name in ("hybrid", "published"):
    try:
        AutoConfig.from_pretrained(f"{{folder}}/{{name}}")
    except ImportError as error:
        assert "optlayers.models" in str(error)
    else:
        raise AssertionError("there is nothing to load it with")
for config in ({{}}, {{"model_type": "nonesuch"}}, {{"ssm_cfg": {{}}, "n_layer": 2}}):
    (there := __import__("pathlib").Path(folder, "strange")).mkdir(exist_ok=True)
    (there / "config.json").write_text(json.dumps(config))
    try:
        AutoConfig.from_pretrained(str(there))
    except ValueError as error:
        assert "model_type" in str(error) or "model type" in str(error), error
    else:
        raise AssertionError(config)
"""


def test_what_is_not_optlayers_is_as_without_it(folders: Path, tiny_pair: Path) -> None:
    run(UNTOUCHED, str(folders), str(tiny_pair / "donor"))


RELOAD = f"""
import importlib, sys
import optlayers
from optlayers import autoclasses
from transformers import AutoConfig
for module in (autoclasses, optlayers):
    importlib.reload(module)
finders = [f for f in sys.meta_path if type(f).__module__ == "optlayers.autoclasses"]
assert len(finders) == 1, sys.meta_path
auto = importlib.reload(sys.modules["{AUTO}"])
assert auto.AutoConfig is not AutoConfig
for name in ("hybrid", "old"):
    assert auto.AutoConfig.from_pretrained(f"{{sys.argv[1]}}/{{name}}").num_hidden_layers > 1
"""


def test_reloads_leave_one_finder_and_register_anew(folders: Path) -> None:
    run(RELOAD, str(folders))
