"""Converting a donor into a base: attention becomes discrete Mamba-2, trained towards the donor.

First each mixer alone, from the donor's input of a layer to the donor's attention output (MOHAWK's
second stage: Bick et al., "Transformers to SSMs", 2024); then, if asked for, all mixers together,
towards the donor's logits. A working folder beside the output holds text and state until the end,
so that a killed run continues.
"""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from accelerate import PartialState
from torch import nn
from transformers import AutoModelForCausalLM, AutoTokenizer

from optlayers.checkpoints.files import flush_to_disk
from optlayers.checkpoints.reader import Checkpoint
from optlayers.checkpoints.target import check_target
from optlayers.checkpoints.tokenizer import copy_tokenizer
from optlayers.distill.losses import forward_kl, relative_l2
from optlayers.distill.sample import sample_text
from optlayers.distill.student import build_student, initialize, student_config
from optlayers.distill.teacher import Teacher
from optlayers.distill.text import read_blocks
from optlayers.distill.training import Budget, Recipe, Report, Trainer, TrainingState
from optlayers.errors import InputError, ModelError, reason
from optlayers.models import llamba as llamba_module
from optlayers.models.llamba import LlambaForCausalLM

MODELING = ("ssd.py", "generation.py", "llamba.py")
MEAN_BLOCKS = 16  # blocks from which the mean input of each mixer is measured


@dataclass(frozen=True)
class ConvertOptions:
    """What to train, and for how long; the fields of a resumed run must be equal.

    text: see `text.documents`, or `sample`. tokens, minutes: of the layers' stage. end_to_end:
    tokens of the second stage (0: none). length: tokens per block; batch: tokens per step, over
    all processes. dtype: of the computation and of the saved weights.
    """

    text: str
    state: int = 64
    tokens: int = 0
    minutes: float = 0.0
    end_to_end: int = 0
    text_tokens: int = 0
    length: int = 512
    batch: int = 32_768
    lr: float = 1e-3
    end_to_end_lr: float = 3e-4
    seed: int = 0
    dtype: str = "float32"


@dataclass(frozen=True)
class Converted:
    """What a conversion did: tokens, seconds and held-out loss of each stage."""

    out: Path
    layer_loss: float
    kl: float | None
    tokens: int
    seconds: float


class LayerObjective:
    """Each mixer alone: the donor's normed input of a layer to the donor's attention output.

    The donor runs once, and each mixer is trained where its layer runs, so that memory does not
    grow with the number of layers.
    """

    def __init__(self, teacher: Teacher, mixers: Sequence[nn.Module]) -> None:
        self.teacher, self.mixers = teacher, mixers

    @property
    def groups(self) -> list[list[nn.Parameter]]:
        """One group for each mixer."""
        return [list(mixer.parameters()) for mixer in self.mixers]

    def loss(self, tokens: torch.Tensor, backward: bool) -> torch.Tensor:
        """The mean over layers of `relative_l2`."""
        losses: list[torch.Tensor] = []

        def train(number: int, x: torch.Tensor, target: torch.Tensor) -> None:
            with torch.set_grad_enabled(backward):
                loss = relative_l2(self.mixers[number](x), target)
                if backward:
                    torch.autograd.backward(loss)
            losses.append(loss.detach())

        self.teacher.states(tokens, train)
        return torch.stack(losses).mean()


class LogitObjective:
    """All mixers together: KL from the donor's next-token distribution to the student's."""

    def __init__(self, teacher: Teacher, student: LlambaForCausalLM) -> None:
        self.teacher, self.student = teacher, student

    @property
    def groups(self) -> list[list[nn.Parameter]]:
        """One group: what of the student has gradients."""
        return [[p for p in self.student.parameters() if p.requires_grad]]

    def loss(self, tokens: torch.Tensor, backward: bool) -> torch.Tensor:
        """See `losses.forward_kl`."""
        wanted = self.teacher.states(tokens).flatten(0, 1)
        with torch.set_grad_enabled(backward):
            h = self.student.backbone(tokens, use_cache=False).last_hidden_state.flatten(0, 1)
            found = forward_kl(h, wanted, self.student.lm_head, self.teacher.model.lm_head)
            if backward:
                torch.autograd.backward(found)
        return found.detach()


def convert(
    donor: Checkpoint,
    out: Path,
    options: ConvertOptions,
    device: torch.device,
    report: Report = lambda state: None,
    keep_text: Path | None = None,
) -> Converted:
    """Make a base from a donor and write it to `out`, a new folder.

    keep_text: where sampled text is kept, as JSONL. Raises `ModelError` for a donor that cannot be
    converted, `InputError` for options or text that cannot be used, `RunError` for a loss that is
    not finite.
    """
    config = student_config(donor, options.state)
    process = PartialState()
    work = out.parent / f".{out.name}.convert"
    if process.is_main_process:
        check_target(out)
        _begin(work, options)
    process.wait_for_everyone()
    tokenizer, teacher = _load(donor, options, device)
    source = options.text
    if source == "sample":
        source = str(_sample(teacher, tokenizer, work, options, report))
        if keep_text is not None and process.is_main_process:
            shutil.copyfile(source, keep_text)
    most = max(options.text_tokens, options.tokens, options.end_to_end)
    blocks = read_blocks(source, tokenizer, options.length, most or 10**12, options.seed)
    student = build_student(teacher, config)
    student.requires_grad_(False)
    mixers: list[Any] = [layer.mixer for layer in student.backbone.layers]
    for mixer in mixers:
        mixer.requires_grad_(True)

    taught = Teacher(teacher)
    alone = LayerObjective(taught, mixers)
    first = blocks.batch(0, min(MEAN_BLOCKS, blocks.n_train)).to(device)
    means: list[torch.Tensor] = []
    taught.states(first, lambda number, x, target: means.append(x.float().mean((0, 1))))
    torch.manual_seed(options.seed)
    for mixer, layer, mean in zip(mixers, taught.layers, means, strict=True):
        initialize(mixer, layer.self_attn, mean)
    size = max(process.num_processes, options.batch // options.length)
    recipe = Recipe(size - size % process.num_processes, options.lr)
    budget = Budget(options.tokens, options.minutes)
    layers = Trainer("layers", alone, blocks, recipe, budget, work / "layers.pt", report)
    layers.run()
    layer_loss, kl = layers.held_out_loss(), None
    tokens, seconds = layers.tokens, layers.seconds
    if options.end_to_end:
        together = LogitObjective(taught, student)
        recipe = Recipe(recipe.blocks, options.end_to_end_lr)
        budget = Budget(options.end_to_end)
        whole = Trainer("logits", together, blocks, recipe, budget, work / "logits.pt", report)
        whole.run()
        kl = whole.held_out_loss()
        tokens, seconds = tokens + whole.tokens, seconds + whole.seconds
    done = Converted(out, layer_loss, kl, tokens, seconds)
    if process.is_main_process:
        _write(student, donor, work / "model", done, options)
        if out.exists():
            out.rmdir()
        (work / "model").rename(out)
        shutil.rmtree(work)
    process.wait_for_everyone()
    return done


def _begin(work: Path, options: ConvertOptions) -> None:
    """Make the working folder, or check that it is of a run with the same options."""
    work.mkdir(parents=True, exist_ok=True)
    note = work / "options.json"
    text = json.dumps(asdict(options), indent=2)
    if note.is_file() and note.read_text("utf-8") != text:
        raise InputError(
            f"{work}: it holds an unfinished conversion with other options ({note.name} has them); "
            "give the same, or remove the folder"
        )
    note.write_text(text, encoding="utf-8")


def _load(donor: Checkpoint, options: ConvertOptions, device: torch.device) -> tuple[Any, Any]:
    try:
        tokenizer = AutoTokenizer.from_pretrained(str(donor.folder))
        teacher = AutoModelForCausalLM.from_pretrained(
            str(donor.folder), dtype=getattr(torch, options.dtype), attn_implementation="sdpa"
        )
    except (OSError, ValueError, RuntimeError, KeyError) as error:
        raise ModelError(
            f"donor {donor.name}: it cannot be loaded ({reason(error)}); fetch it again"
        ) from None
    return tokenizer, teacher.to(device).eval().requires_grad_(False)


def _sample(
    teacher: Any, tokenizer: Any, work: Path, options: ConvertOptions, report: Report
) -> Path:
    """Sample the training text, each process a part; returns the file of all."""
    process = PartialState()
    wanted = options.text_tokens or max(options.tokens, options.end_to_end)
    share = -(-wanted // process.num_processes)
    part = work / f"text-{process.process_index}.jsonl"
    clock = _Clock("text", wanted, report)
    if not (work / "text.jsonl").is_file():
        seed = options.seed * 1_009 + process.process_index
        sample_text(teacher, tokenizer, part, share, seed, clock if clock.shown else _silent)
        process.wait_for_everyone()
        if process.is_main_process:
            parts = sorted(work.glob("text-*.jsonl"))
            joined = work / "text.part"
            joined.write_bytes(b"".join(path.read_bytes() for path in parts))
            joined.rename(work / "text.jsonl")
    process.wait_for_everyone()
    return work / "text.jsonl"


def _silent(tokens: int) -> None:
    """No progress."""


class _Clock:
    """Reports sampled tokens of all processes, from those of this one."""

    def __init__(self, stage: str, total: int, report: Report) -> None:
        self.stage, self.total, self.report = stage, total, report
        self.started = time.monotonic()
        self.processes = PartialState().num_processes
        self.shown = PartialState().is_main_process

    def __call__(self, tokens: int) -> None:
        tokens *= self.processes
        seconds = time.monotonic() - self.started
        fraction = min(1.0, tokens / self.total)
        left = seconds * (1.0 - fraction) / fraction
        nothing = float("nan")
        self.report(TrainingState(self.stage, fraction, tokens, nothing, tokens / seconds, left))


def _write(
    student: LlambaForCausalLM,
    donor: Checkpoint,
    folder: Path,
    done: Converted,
    options: ConvertOptions,
) -> None:
    """Write the base as a Hugging Face folder that loads without optlayers too."""
    shutil.rmtree(folder, ignore_errors=True)
    student.config.auto_map = {
        "AutoConfig": "llamba.LlambaConfig",
        "AutoModelForCausalLM": "llamba.LlambaForCausalLM",
    }
    student.save_pretrained(folder)
    copy_tokenizer(donor.folder, folder)
    generation = donor.folder / "generation_config.json"
    if generation.is_file():
        shutil.copyfile(generation, folder / generation.name)
    for file in MODELING:
        shutil.copyfile(Path(llamba_module.__file__).parent / file, folder / file)
    (folder / "README.md").write_text(_card(donor, done, options), encoding="utf-8")
    flush_to_disk(*folder.iterdir(), folder)


def _card(donor: Checkpoint, done: Converted, options: ConvertOptions) -> str:
    text = "text sampled from it" if options.text == "sample" else options.text
    lines = [
        f"# {donor.name} with discrete Mamba-2 mixers",
        "",
        f"Made by `optlayers convert` from {donor.name}: the attention of every layer is replaced "
        f"by a discrete Mamba-2 mixer (state {options.state}), trained towards the donor on "
        f"{text}; all other weights are the donor's, and so is its licence.",
        "",
        f"- layer by layer: relative squared error {done.layer_loss:.3f} on held-out text",
    ]
    if done.kl is not None:
        lines.append(f"- end to end: KL to the donor {done.kl:.3f} nats per token")
    lines.append(f"- {done.tokens:,} tokens of training, seed {options.seed}")
    return "\n".join(lines) + "\n"
