"""A donor is converted: what is written, going on after a kill, and what is refused."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer

import optlayers.models  # noqa: F401 -- registers Llamba
from optlayers.checkpoints.reader import Checkpoint
from optlayers.distill import sample, training, work
from optlayers.distill.convert import Converted, ConvertOptions, convert
from optlayers.distill.student import split_rows
from optlayers.distill.training import TrainingState
from optlayers.errors import ExportError, InputError, ModelError, OptlayersError
from tests.helpers.donors import KINDS, KillError, chat_tokenizer, donor_in, write_text

CPU = torch.device("cpu")
STEP = 128
QUICK = ConvertOptions("", state=4, tokens=12 * STEP, length=32, batch=STEP, lr=3e-3)


@pytest.fixture(scope="module")
def donor(tmp_path_factory: pytest.TempPathFactory) -> Checkpoint:
    return donor_in(tmp_path_factory.mktemp("convert") / "donor")


@pytest.fixture(scope="module")
def text(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(write_text(tmp_path_factory.mktemp("text") / "text.jsonl"))


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(folder / "model.safetensors")


def assert_equal(found: dict[str, torch.Tensor], wanted: dict[str, torch.Tensor]) -> None:
    assert found.keys() == wanted.keys()
    for name, tensor in found.items():
        assert torch.equal(tensor, wanted[name]), name


def listing(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*"))


@pytest.mark.parametrize("kind", KINDS)
def test_a_base_of_every_kind_is_the_donor_with_other_mixers(
    tmp_path: Path, text: str, kind: str
) -> None:
    donor = donor_in(tmp_path / "donor", kind)
    done = convert(donor, tmp_path / "base", replace(QUICK, text=text, tokens=2 * STEP), CPU)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["base", "donor"]
    loaded: Any = AutoModelForCausalLM.from_pretrained(done.out)
    config = loaded.config
    assert (config.model_type, config.n_layer, config.d_model) == ("llamba", 3, 32)
    assert (config.ssm_cfg["d_state"], config.ssm_cfg["n_v_heads"]) == (4, 4)
    assert config.eos_token_id == donor.config.eos_token_id
    base, model = Checkpoint("base", done.out), donor
    pairs = [("backbone.embedding", "model.embed_tokens"), ("lm_head", "lm_head")]
    pairs += [("backbone.final_layernorm", "model.norm")]
    for mine, theirs in pairs:
        if model.has(f"{theirs}.weight"):
            found = base.tensor(f"{mine}.weight")
            assert torch.equal(found, model.tensor(f"{theirs}.weight")), mine
    for name in base.names_below("backbone.layers.1"):
        if not name.startswith("mixer."):
            found = base.tensor(f"backbone.layers.1.{name}")
            assert torch.equal(found, model.tensor(f"model.layers.1.{name}")), name


@pytest.fixture(scope="module")
def whole(donor: Checkpoint, text: str, tmp_path_factory: pytest.TempPathFactory) -> Converted:
    """A conversion of two stages that nothing interrupted."""
    out = tmp_path_factory.mktemp("whole") / "base"
    return convert(donor, out, replace(QUICK, text=text, end_to_end=12 * STEP), CPU)


def test_the_folder_is_a_model_with_its_tokenizer_and_card(
    whole: Converted, donor: Checkpoint, text: str
) -> None:
    assert {path.name for path in whole.out.iterdir()} >= {
        *("config.json", "generation_config.json", "model.safetensors", "README.md"),
        *("llamba.py", "generation.py", "ssd.py", "tokenizer.json", "tokenizer_config.json"),
    }
    mine, theirs = (AutoTokenizer.from_pretrained(f) for f in (whole.out, donor.folder))
    assert mine("name: Anna")["input_ids"] == theirs("name: Anna")["input_ids"]
    card = (whole.out / "README.md").read_text("utf-8")
    assert whole.end_to_end is not None
    assert f"error {whole.layers.loss:.3f} on held-out" in card
    assert f"KL to the donor {whole.end_to_end.loss:.3f} nats" in card
    assert f"{24 * STEP:,} tokens of training, seed 0" in card
    assert text in card
    assert whole.tokens == 24 * STEP
    assert whole.seconds == whole.layers.seconds + whole.end_to_end.seconds


def test_the_second_stage_is_optional_and_has_its_own_learning_rate(
    whole: Converted, donor: Checkpoint, text: str, tmp_path: Path
) -> None:
    options = replace(QUICK, text=text)
    first = convert(donor, tmp_path / "first", options, CPU)
    assert first.end_to_end is None
    assert first.layers.loss == whole.layers.loss
    still = replace(options, end_to_end=12 * STEP, end_to_end_lr=1e-9)
    convert(donor, tmp_path / "still", still, CPU)
    a, b, c = (weights(f) for f in (tmp_path / "first", tmp_path / "still", whole.out))
    name = "backbone.layers.1.mixer.in_proj.weight"
    assert torch.allclose(a[name], b[name], atol=1e-6)
    assert not torch.allclose(a[name], c[name], atol=1e-4)


@pytest.mark.parametrize("kill_at", [("layers", 1), ("layers", 2), ("logits", 1), ("logits", 2)])
def test_a_killed_conversion_ends_as_one_that_was_not(
    whole: Converted,
    donor: Checkpoint,
    text: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    kill_at: tuple[str, int],
) -> None:
    monkeypatch.setattr(training, "SAVE_SECONDS", 0.0)
    options = replace(QUICK, text=text, end_to_end=12 * STEP)
    seen: list[str] = []

    def kill(state: TrainingState) -> None:
        seen.append(state.stage)
        if kill_at == (state.stage, seen.count(state.stage)):
            raise KillError

    with pytest.raises(KillError):
        convert(donor, tmp_path / "base", options, CPU, kill)
    assert [path.name for path in tmp_path.iterdir()] == [".base.convert"]
    done = convert(donor, tmp_path / "base", options, CPU)
    assert [path.name for path in tmp_path.iterdir()] == ["base"]
    assert_equal(weights(done.out), weights(whole.out))
    assert (done.layers.loss, done.tokens) == (whole.layers.loss, whole.tokens)


def test_a_run_killed_while_it_samples_has_the_same_text_and_base(
    donor: Checkpoint, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sample, "LENGTH", 64)
    monkeypatch.setattr(sample, "MOST_SEQUENCES", 4)
    options = replace(QUICK, text="sample")

    def kill(state: TrainingState) -> None:
        if state.stage == "text" and state.fraction > 0.5:
            raise KillError

    keeps = [tmp_path / "a.jsonl", tmp_path / "b.jsonl"]
    convert(donor, tmp_path / "a", options, CPU, keep_text=keeps[0])
    with pytest.raises(KillError):
        convert(donor, tmp_path / "b", options, CPU, kill, keep_text=keeps[1])
    convert(donor, tmp_path / "b", options, CPU, keep_text=keeps[1])
    assert keeps[0].read_bytes() == keeps[1].read_bytes()
    assert_equal(weights(tmp_path / "a"), weights(tmp_path / "b"))
    # The kept text is a text to train on.
    again = replace(QUICK, text=str(keeps[0]))
    convert(donor, tmp_path / "c", again, CPU)
    assert_equal(weights(tmp_path / "a"), weights(tmp_path / "c"))


def test_a_chat_donor_keeps_its_template(tmp_path: Path, text: str) -> None:
    donor = donor_in(tmp_path / "donor")
    chat_tokenizer().save_pretrained(donor.folder)
    done = convert(donor, tmp_path / "base", replace(QUICK, text=text, tokens=STEP), CPU)
    turns = [{"role": "user", "content": "Who?"}]
    made = AutoTokenizer.from_pretrained(done.out).apply_chat_template(turns, tokenize=False)
    assert made == "<user>Who?\n"


def test_bfloat16_is_the_dtype_of_the_weights(donor: Checkpoint, text: str, tmp_path: Path) -> None:
    options = replace(QUICK, text=text, tokens=STEP, dtype="bfloat16")
    done = convert(donor, tmp_path / "base", options, CPU)
    assert {tensor.dtype for tensor in weights(done.out).values()} == {torch.bfloat16}
    assert json.loads((done.out / "config.json").read_text())["dtype"] == "bfloat16"


def test_minutes_alone_end_a_run(donor: Checkpoint, text: str, tmp_path: Path) -> None:
    done = convert(donor, tmp_path / "base", replace(QUICK, text=text, tokens=0, minutes=0.01), CPU)
    assert 0.6 <= done.layers.seconds < 30.0
    assert done.tokens > 0


REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "no such text": ({"text": "missing.jsonl"}, "there is no such file"),
    "too long": ({"length": 600, "batch": 6000, "tokens": 6000}, "give at most that"),
    "kept text": ({"keep_text": "kept.jsonl"}, "only sampled text is kept"),
    "no folder for it": (
        {"text": "sample", "keep_text": "missing/a.jsonl"},
        "its folder does not exist",
    ),
    "its file exists": ({"text": "sample", "keep_text": "taken"}, "it exists already"),
    "taken": ({"out": "taken"}, "--out taken: it exists already; choose another, or remove it"),
    "below a file": ({"out": "taken/base"}, "is not a folder; choose another"),
    "a donor without a tokenizer": ({"donor": "bare"}, "it has no tokenizer"),
    "state": ({"state": 300}, "--state 300: give 1 to 256"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_nothing_stays_of_what_is_refused(
    donor: Checkpoint, text: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, case: str
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "taken").write_text("mine")
    given, words = REFUSED[case]
    given = {"text": text, **given}
    model = donor
    if given.pop("donor", None):
        model = donor_in(tmp_path / "bare")
        for file in (tmp_path / "bare").glob("tokenizer*"):
            file.unlink()
    keep = given.pop("keep_text", None)
    out = Path(given.pop("out", "base"))
    before = listing(tmp_path)
    with pytest.raises(InputError) as raised:
        convert(model, out, replace(QUICK, **given), CPU, keep_text=keep and Path(keep))
    assert words in str(raised.value)
    assert "\n" not in str(raised.value)
    assert listing(tmp_path) == before


OPTIONS: dict[str, tuple[dict[str, Any], str]] = {
    "no limit": ({"tokens": 0}, "neither --tokens nor --minutes is above 0"),
    "batch": ({"batch": 31}, "--batch 31 is less than one sequence of --length 32"),
    "tokens": ({"tokens": 100}, "--tokens 100 is less than one step of --batch 128"),
    "end to end": ({"end_to_end": 100}, "--end-to-end 100 is less than one step of --batch 128"),
    "text": ({"text_tokens": 63}, "--text-tokens 63 is less than two sequences of --length 32"),
}


@pytest.mark.parametrize("case", OPTIONS)
def test_numbers_that_do_not_fit_together_are_one_line(case: str) -> None:
    given, words = OPTIONS[case]
    with pytest.raises(InputError, match=words):
        replace(QUICK, **given)


def killed(donor: Checkpoint, out: Path, options: ConvertOptions) -> None:
    def kill(state: TrainingState) -> None:
        raise KillError

    with pytest.raises(KillError):
        convert(donor, out, options, CPU, kill)


def test_a_run_is_continued_with_the_same_options_only(
    donor: Checkpoint, text: str, tmp_path: Path
) -> None:
    options = replace(QUICK, text=text)
    killed(donor, tmp_path / "base", options)
    before = listing(tmp_path)
    with pytest.raises(InputError, match="unfinished run with another state, lr "):
        convert(donor, tmp_path / "base", replace(options, lr=1e-4, state=8), CPU)
    assert listing(tmp_path) == before
    other = donor_in(tmp_path / "other")
    with pytest.raises(InputError, match="unfinished run with another donor "):
        convert(other, tmp_path / "base", options, CPU)


def test_a_damaged_working_folder_is_one_line(donor: Checkpoint, text: str, tmp_path: Path) -> None:
    killed(donor, tmp_path / "base", replace(QUICK, text=text))
    (tmp_path / ".base.convert" / "options.json").write_text("{")
    with pytest.raises(InputError, match="or remove the folder"):
        convert(donor, tmp_path / "base", replace(QUICK, text=text), CPU)


def test_two_runs_do_not_write_to_one_folder(donor: Checkpoint, text: str, tmp_path: Path) -> None:
    options = replace(QUICK, text=text)

    def again(state: TrainingState) -> None:
        with pytest.raises(InputError, match="another process is at work on it"):
            convert(donor, tmp_path / "base", options, CPU)

    convert(donor, tmp_path / "base", options, CPU, again)


def test_a_disk_without_room_is_refused_before_the_training(
    donor: Checkpoint, text: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(work, "free_bytes", lambda folder: 1_000)
    with pytest.raises(ExportError, match=r"--out .*: 0\.00 GB are needed and 0\.00 GB are free"):
        convert(donor, tmp_path / "base", replace(QUICK, text=text), CPU)
    assert listing(tmp_path) == []


def test_a_folder_that_cannot_be_written_keeps_the_training(
    donor: Checkpoint, text: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "base"

    def take(state: TrainingState) -> None:
        out.mkdir(exist_ok=True)
        (out / "other").touch()

    with pytest.raises(ExportError, match="the training is kept"):
        convert(donor, out, replace(QUICK, text=text), CPU, take)
    (out / "other").unlink()
    steps: list[TrainingState] = []
    convert(donor, out, replace(QUICK, text=text), CPU, steps.append)
    assert steps == []
    assert (out / "config.json").is_file()


def test_the_rows_of_the_input_projection_are_those_of_the_mixer(whole: Converted) -> None:
    loaded: Any = AutoModelForCausalLM.from_pretrained(whole.out)
    mixer = loaded.backbone.layers[0].mixer
    rows = split_rows(mixer)
    ends = [part.stop for part in rows.values()]
    assert ends[-1] == mixer.in_proj.out_features
    assert ends[2] == mixer.conv_channels
    assert [part.start for part in rows.values()] == [0, *ends[:-1]]


UNREADABLE: dict[str, tuple[Callable[[Path], object], str]] = {
    "tokenizer": (lambda f: (f / "tokenizer.json").write_text("{"), "cannot be loaded"),
}


@pytest.mark.parametrize("case", UNREADABLE)
def test_a_donor_that_cannot_be_loaded_is_one_line(tmp_path: Path, text: str, case: str) -> None:
    change, words = UNREADABLE[case]
    donor = donor_in(tmp_path / "donor")
    change(donor.folder)
    with pytest.raises(OptlayersError, match=words) as raised:
        convert(donor, tmp_path / "base", replace(QUICK, text=text), CPU)
    assert isinstance(raised.value, ModelError)
    assert "\n" not in str(raised.value)
    assert [path.name for path in tmp_path.iterdir()] == ["donor"]
