"""Fetching and uploading, through the real command line and the real client, with a local hub."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from tests.helpers.commands import Commands, Done
from tests.helpers.hub import Hub
from tests.helpers.paths import DEMO_TASKS

STUDY = """
name: far
base: {{model: org/base}}
donor: {{model: org/donor}}
layers: {{min: 1, max: 2}}
tasks: [{{name: demo}}]
task_path: {tasks}
"""


@pytest.fixture(scope="module")
def repos(tiny_pair: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The tiny pair as repositories: the donor in many files, with much that nobody needs."""
    from transformers import AutoModelForCausalLM

    folder = tmp_path_factory.mktemp("repos")
    base = Path(shutil.copytree(tiny_pair / "base", folder / "base"))
    # Large enough to break off in the middle: the client keeps blocks of 10 MB.
    tensors = load_file(base / "model.safetensors")
    save_file(
        {**tensors, "unused": torch.zeros(30_000_000, dtype=torch.uint8)},
        base / "model.safetensors",
        metadata={"format": "pt"},
    )
    (base / "pytorch_model.bin").write_bytes(b"never fetched")
    donor = folder / "donor"
    model = AutoModelForCausalLM.from_pretrained(tiny_pair / "donor")
    model.save_pretrained(donor, max_shard_size="40KB")
    for path in (tiny_pair / "donor").glob("tokenizer*"):
        shutil.copyfile(path, donor / path.name)
    (donor / "README.md").write_text("---\nlicense: wonder-2\n---\n# Donor\n")
    (donor / "LICENSE").write_text("You may.\n")
    (donor / "consolidated.00.pth").write_bytes(b"never fetched")
    return {"org/base": base, "org/donor": donor}


@pytest.fixture
def hub(repos: dict[str, Path]) -> Iterator[Hub]:
    with Hub(dict(repos)) as made:
        yield made


Run = Callable[..., Done]
# For processes that inherit what the tests set.
ONLINE = {"HF_HUB_OFFLINE": "0"}


@pytest.fixture
def run(commands: Commands, here: Path) -> Run:
    """Runs a command in `here`, given the hub's address."""

    def ask(url: str, *arguments: str, **more: str) -> Done:
        return commands.run(here, list(arguments), **surroundings(here, url, **more))

    return ask


@pytest.fixture
def here(tmp_path: Path) -> Path:
    (tmp_path / "far.yaml").write_text(STUDY.format(tasks=DEMO_TASKS))
    return tmp_path


def surroundings(here: Path, url: str, **more: str) -> dict[str, str]:
    """The environment of a user of that hub, with caches of their own."""
    return {
        "HF_ENDPOINT": url,
        "HF_HOME": str(here / "cache"),
        "OPTLAYERS_MODELS": str(here / "models"),
        "HF_HUB_DISABLE_XET": "1",
        "HF_HUB_DISABLE_TELEMETRY": "1",
        **more,
    }


def line(stderr: str) -> str:
    lines = [x for x in stderr.splitlines() if x.startswith("optlayers: ")]
    assert len(lines) == 1, stderr
    assert "Traceback" not in stderr
    return lines[0]


def test_a_fetch_brings_what_is_needed_and_goes_on_where_it_broke(
    hub: Hub, here: Path, run: Run
) -> None:
    hub.breaks["model.safetensors"] = 25_000_000
    code, out, err = run(hub.url, "fetch", "--study", "far.yaml", "--json")
    assert code == 0, err
    found = json.loads(out)
    assert found["tasks"]["questions"] == 1280
    base, donor = Path(found["base"]), Path(found["donor"])
    assert (base / "model.safetensors").stat().st_size > 30_000_000
    assert not (base / "pytorch_model.bin").exists()
    assert not (donor / "consolidated.00.pth").exists()
    assert (donor / "LICENSE").is_file()
    # The broken download was resumed, not started again.
    again = [r for verb, path, r in hub.asked if verb == "GET" and r]
    assert len(again) == 1
    assert int(again[0].removeprefix("bytes=").removesuffix("-")) >= 10_000_000
    # The donor's embedding and head alone fill files of their own: nobody needs these.
    index = json.loads((donor / "model.safetensors.index.json").read_text())["weight_map"]
    here_now = {path.name for path in donor.glob("*.safetensors")}
    assert here_now == {file for tensor, file in index.items() if ".layers." in tensor}
    assert index["model.embed_tokens.weight"] not in here_now
    # Once fetched, no network is needed.
    code, out, err = run(hub.url, "fetch", "--study", "far.yaml", HF_HUB_OFFLINE="1")
    assert code == 0, err


def test_an_export_fetches_the_files_of_its_layers_alone(
    hub: Hub, here: Path, run: Run, repos: dict[str, Path]
) -> None:
    code, _, err = run(hub.url, "export", "--study", "far.yaml", "--layers", "1,4", "--out", "x")
    assert code == 0, err
    names = (repos["org/donor"] / "model.safetensors.index.json").read_text()
    index = json.loads(names)["weight_map"]
    wanted = {f for t, f in index.items() if t.startswith(("model.layers.1.", "model.layers.4."))}
    fetched = {path.rpartition("/")[2] for verb, path, _ in hub.asked if verb == "GET"}
    mine = {name for name in fetched if name.startswith("model-")}
    assert mine == wanted
    info = json.loads((here / "x" / "checkpoint_info.json").read_text())
    assert set(info["donor"]["sha256"]) == wanted
    assert info["donor"]["licence"] == "wonder-2"
    card = (here / "x" / "README.md").read_text()
    assert "- org/base\n- org/donor\n" in card
    assert "wonder-2" in card
    assert (here / "x" / "donor-LICENSE").read_text() == "You may.\n"


def test_the_files_that_transformers_would_take_are_fetched(
    hub: Hub, here: Path, run: Run, repos: dict[str, Path]
) -> None:
    # One whole file beside an index of other shards, templates in the one folder that counts.
    donor = Path(shutil.copytree(repos["org/donor"], here / "donor"))
    whole = {n: t for f in donor.glob("*.safetensors") for n, t in load_file(f).items()}
    save_file(whole, donor / "model.safetensors", metadata={"format": "pt"})
    for folder in ("additional_chat_templates", "original"):
        (donor / folder).mkdir()
        (donor / folder / "tools.jinja").write_text("with tools")
    (donor / "chat_template.jinja").write_text("plain")
    (donor / "tokenization_odd.py").write_text("")
    hub.repos["org/donor"] = donor
    code, out, err = run(hub.url, "fetch", "--study", "far.yaml", "--json")
    assert code == 0, err
    found = Path(json.loads(out)["donor"])
    assert [path.name for path in found.glob("*.safetensors")] == ["model.safetensors"]
    assert (found / "additional_chat_templates" / "tools.jinja").read_text() == "with tools"
    assert (found / "tokenization_odd.py").is_file()
    assert not (found / "original").exists()


def test_a_quantized_model_is_refused_before_its_weights_are_fetched(
    hub: Hub, here: Path, run: Run, repos: dict[str, Path]
) -> None:
    base = here / "base"
    base.mkdir()
    config = json.loads((repos["org/base"] / "config.json").read_text())
    quantized = {**config, "quantization_config": {"quant_method": "awq"}}
    (base / "config.json").write_text(json.dumps(quantized))
    (base / "model.safetensors").write_bytes(b"never fetched")
    hub.repos["org/base"] = base
    code, _, err = run(hub.url, "fetch", "--study", "far.yaml")
    assert code == 2
    assert "model org/base: config.json: quantization_config" in line(err)
    assert not [path for _, path, _ in hub.asked if path.endswith("safetensors")]


def test_what_goes_wrong_is_one_line_with_the_fix(hub: Hub, here: Path, run: Run) -> None:
    hub.gated.add("org/donor")
    code, _, err = run(hub.url, "fetch", "--study", "far.yaml")
    assert code == 2
    assert "model org/donor: the repository is gated" in line(err)
    assert "set HF_TOKEN or run `hf auth login`" in line(err)
    del hub.repos["org/base"]
    code, _, err = run(hub.url, "fetch", "--study", "far.yaml", HF_HOME=str(here / "new"))
    assert code == 2
    assert "model org/base: no such repository, or a private one that needs a token" in line(err)
    code, _, err = run(
        "http://127.0.0.1:9", "fetch", "--study", "far.yaml", HF_HOME=str(here / "new")
    )
    assert code == 2
    assert "the hub cannot be reached; check the network" in line(err)
    code, _, err = run(hub.url, "fetch", "--study", "far.yaml", "--source", "moon")
    assert code == 2
    assert "--source is 'moon'; choose one of huggingface, modelscope" in line(err)


def test_a_push_that_cannot_be_is_refused_before_anything_is_written(
    hub: Hub, here: Path, run: Run
) -> None:
    export = ["export", "--study", "far.yaml", "--layers", "1", "--out", "x", "--push"]
    for repo, token, words in (
        ("me/my model", "good", "not a repository name; write OWNER/NAME"),
        ("me/mine", "", "there is no token; set HF_TOKEN"),
        ("me/mine", "bad", "the token is not valid"),
    ):
        code, _, err = run(hub.url, *export, repo, HF_TOKEN=token)
        assert code == 2
        assert words in line(err)
        assert not (here / "x").exists()
    code, _, err = run("http://127.0.0.1:9", *export, "me/mine", HF_TOKEN="good")
    assert code == 1
    assert "the hub cannot be reached" in line(err)


def test_a_push_without_rights_keeps_the_checkpoint(hub: Hub, here: Path, run: Run) -> None:
    export = ["export", "--study", "far.yaml", "--layers", "1", "--out", "x", "--push"]
    code, _, err = run(hub.url, *export, "mine", HF_TOKEN="good")
    assert code == 2
    assert "--push me/mine: the token may not write there" in line(err)
    assert (here / "x" / "config.json").is_file()


STRANGER = """
import sys; sys.modules["optlayers"] = None
import json, torch
from transformers import AutoModelForCausalLM, AutoTokenizer
models = [AutoModelForCausalLM.from_pretrained(x, trust_remote_code=True) for x in sys.argv[1:]]
tokens = AutoTokenizer.from_pretrained(sys.argv[1])("Which of these?", return_tensors="pt")
with torch.inference_mode():
    pushed, written = (model(**tokens).logits for model in models)
assert torch.equal(pushed, written)
print(type(models[0]).__module__)
"""


def test_what_is_pushed_replaces_what_was_there_and_loads_from_the_hub(
    hub: Hub, here: Path, run: Run
) -> None:
    hub.uploads = here / "uploads"
    earlier = hub.uploads / "me" / "mine"
    earlier.mkdir(parents=True)
    hub.repos["me/mine"] = earlier
    # Transformers would load this one file before all others.
    (earlier / "model-00001-of-00002.safetensors").write_bytes(b"of an earlier upload")
    (earlier / "notes.txt").write_text("kept")
    export = ["export", "--study", "far.yaml", "--layers", "1", "--out", "x", "--push"]
    code, out, err = run(hub.url, *export, "mine", "--json", HF_TOKEN="good")
    assert code == 0, err
    assert json.loads(out)["pushed"] == f"{hub.url}/me/mine"
    assert {p.name: p.read_bytes() for p in earlier.iterdir() if p.name != "notes.txt"} == {
        p.name: p.read_bytes() for p in (here / "x").iterdir()
    }
    done = subprocess.run(
        [sys.executable, "-c", STRANGER, "me/mine", here / "x"],
        cwd=here,
        env={**os.environ, **surroundings(here, hub.url), **ONLINE},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "transformers_modules.me.mine" in done.stdout


def test_a_push_that_breaks_off_says_how_to_go_on(hub: Hub, here: Path, run: Run) -> None:
    hub.uploads, hub.full = here / "uploads", 0
    export = ["export", "--study", "far.yaml", "--layers", "1", "--out", "x", "--push", "me/mine"]
    code, _, err = run(hub.url, *export, "--private", HF_TOKEN="good")
    assert code == 1
    assert "--push me/mine: the hub answered 507" in line(err)
    assert hub.private == {"me/mine"}
    found = re.search("`hf (upload [^`]+)`", line(err))
    assert found is not None
    done = subprocess.run(
        [Path(sys.executable).with_name("hf"), *found.group(1).split()],
        cwd=here,
        env={**os.environ, **surroundings(here, hub.url, HF_TOKEN="good"), **ONLINE},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    pushed = {p.name for p in (hub.uploads / "me" / "mine").iterdir()}
    assert pushed == {p.name for p in (here / "x").iterdir()}
