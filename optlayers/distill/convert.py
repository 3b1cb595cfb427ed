"""Converting a donor into a base: attention becomes discrete Mamba-2, trained towards the donor.

First each mixer alone, from the donor's input of a layer to the donor's attention output (MOHAWK's
second stage: Bick et al., "Transformers to SSMs", 2024); then, if asked for, all mixers together,
towards the donor's logits. A working folder beside the output holds text and state until the end,
so that a killed run continues.
"""

from __future__ import annotations

import shutil
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from accelerate import PartialState

from optlayers.checkpoints.reader import Checkpoint
from optlayers.checkpoints.target import check_target
from optlayers.distill.objectives import LayerObjective, LogitObjective
from optlayers.distill.output import write_student
from optlayers.distill.processes import together
from optlayers.distill.sample import sample_part
from optlayers.distill.student import build_student, initialize, student_config
from optlayers.distill.teacher import Teacher, load_donor
from optlayers.distill.text import Blocks, read_blocks
from optlayers.distill.training import Budget, Objective, Recipe, Report, Trained, Trainer
from optlayers.distill.work import WorkFolder
from optlayers.errors import InputError
from optlayers.models.llamba import LlambaForCausalLM

SAMPLE = "sample"  # as `text`: sampled from the donor
DEFAULT_TOKENS = 20_000_000
SAMPLE_BLOCKS = 16  # blocks on which the mixers are initialized
# Of a trained number: a master and two moments in float32, in the state and in its next version.
STATE_BYTES = 24


@dataclass(frozen=True)
class ConvertOptions:
    """What to train, and for how long; those of a resumed run must be equal.

    text: see `text.documents`, or `SAMPLE`. tokens, minutes: of the layers' stage, the first limit
    that is reached (0: none). end_to_end: tokens of the second stage (0: none). text_tokens: of the
    text that is sampled or read (0: as many as are trained on). length: tokens per block; batch:
    tokens per step, over all processes. dtype: of the computation and of the saved weights. Raises
    `InputError` for numbers that do not fit together.
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

    def __post_init__(self) -> None:
        if not self.tokens and not self.minutes:
            raise InputError("neither --tokens nor --minutes is above 0; give one of them")
        if self.batch < self.length:
            raise InputError(
                f"--batch {self.batch:,} is less than one sequence of --length {self.length:,}; "
                "raise the one or lower the other"
            )
        for name, tokens in (("--tokens", self.tokens), ("--end-to-end", self.end_to_end)):
            if 0 < tokens < self.batch:
                raise InputError(
                    f"{name} {tokens:,} is less than one step of --batch {self.batch:,}; raise the "
                    "one or lower the other"
                )
        if self.text_size < 2 * self.length:
            raise InputError(
                f"--text-tokens {self.text_size:,} is less than two sequences of --length "
                f"{self.length:,}; raise the one or lower the other"
            )

    @property
    def text_size(self) -> int:
        """Tokens of text to sample, or to read at most."""
        return self.text_tokens or max(self.tokens, self.end_to_end) or DEFAULT_TOKENS

    @property
    def blocks(self) -> int:
        """Blocks per step, over all processes."""
        return self.batch // self.length


@dataclass(frozen=True)
class Converted:
    """What a conversion made: the folder, and what its stages did."""

    out: Path
    layers: Trained
    end_to_end: Trained | None

    @property
    def tokens(self) -> int:
        """Tokens of training."""
        return self.layers.tokens + (self.end_to_end.tokens if self.end_to_end else 0)

    @property
    def seconds(self) -> float:
        """Seconds of training, before interruptions too."""
        return self.layers.seconds + (self.end_to_end.seconds if self.end_to_end else 0.0)


def convert(
    donor: Checkpoint,
    out: Path,
    options: ConvertOptions,
    device: torch.device,
    report: Report = lambda state: None,
    keep_text: Path | None = None,
) -> Converted:
    """Make a base from a donor and write it to `out`, a new folder.

    Each process of several calls it. keep_text: where sampled text is kept, as JSONL. Raises
    `ModelError` for a donor that cannot be converted, `InputError` for options or text that cannot
    be used, `RunError` for what fails while it runs.
    """
    with together():
        config = student_config(donor, options.state)
        work = WorkFolder(out, "convert", {"donor": donor.name, **asdict(options)})
        _check(donor, out, options, keep_text, work)
        tokenizer, model = load_donor(donor, options.dtype, device)
        student = build_student(model, config)
        work.check_space(_bytes(student))
        blocks = None
        if options.text != SAMPLE:
            blocks = _read(options.text, tokenizer, options)
    with work:
        if blocks is None:
            text = sample_part(model, tokenizer, work.path, options.text_size, options.seed, report)
            if keep_text is not None and PartialState().is_main_process:
                shutil.copyfile(text, keep_text)
            with together():
                blocks = _read(str(text), tokenizer, options)
        done = _train(Teacher(model), student, blocks, options, work, report, out)
        if PartialState().is_main_process:
            write_student(student, donor.folder, _card(donor, done, options), work.path, out)
            work.remove()
        PartialState().wait_for_everyone()
    return done


def _check(
    donor: Checkpoint, out: Path, options: ConvertOptions, keep_text: Path | None, work: WorkFolder
) -> None:
    check_target(out)
    longest = int(donor.config.max_position_embeddings)
    if options.length > longest:
        raise InputError(
            f"--length {options.length:,}: donor {donor.name} has max_position_embeddings "
            f"{longest:,}; give at most that"
        )
    processes = PartialState().num_processes
    if options.blocks < processes:
        raise InputError(
            f"--batch {options.batch:,}: {options.blocks} sequences of --length {options.length:,} "
            f"are fewer than the {processes} processes; give at least "
            f"{processes * options.length:,}"
        )
    if keep_text is None:
        return
    if options.text != SAMPLE:
        raise InputError(f"--keep-text {keep_text}: only sampled text is kept; leave it out")
    if not keep_text.absolute().parent.is_dir():
        raise InputError(f"--keep-text {keep_text}: its folder does not exist; make it")
    if work.is_new and keep_text.exists():
        raise InputError(f"--keep-text {keep_text}: it exists already; choose another file")


def _read(source: str, tokenizer: Any, options: ConvertOptions) -> Blocks:
    return read_blocks(source, tokenizer, options.length, options.text_size, options.seed)


def _bytes(student: LlambaForCausalLM) -> int:
    """Bytes of the working folder and the output at most."""
    model: int = sum(p.nbytes for p in student.parameters())
    trained: int = sum(p.numel() for p in student.parameters() if p.requires_grad)
    return model + STATE_BYTES * trained


def _train(
    teacher: Teacher,
    student: LlambaForCausalLM,
    blocks: Blocks,
    options: ConvertOptions,
    work: WorkFolder,
    report: Report,
    out: Path,
) -> Converted:
    mixers: list[Any] = [layer.mixer for layer in student.backbone.layers]
    _initialize(teacher, mixers, blocks, options.seed)

    def stage(name: str, objective: Objective, lr: float, budget: Budget) -> Trained:
        recipe, state = Recipe(options.blocks, lr), work.path / f"{name}.pt"
        return Trainer(name, objective, blocks, recipe, budget, state, report).run()

    budget = Budget(options.tokens, options.minutes)
    layers = stage("layers", LayerObjective(teacher, mixers), options.lr, budget)
    whole = None
    if options.end_to_end:
        objective = LogitObjective(teacher, student)
        whole = stage("logits", objective, options.end_to_end_lr, Budget(options.end_to_end))
    return Converted(out, layers, whole)


def _initialize(teacher: Teacher, mixers: list[Any], blocks: Blocks, seed: int) -> None:
    """Initialize each mixer from the attention of its layer, on the first blocks."""
    sample = blocks.batch(0, min(SAMPLE_BLOCKS, blocks.n_train)).to(teacher.model.device)
    torch.manual_seed(seed)
    teacher.states(
        sample,
        lambda number, x, target: initialize(
            mixers[number], teacher.layers[number].self_attn, x, target
        ),
    )


def _card(donor: Checkpoint, done: Converted, options: ConvertOptions) -> str:
    text = "text sampled from it" if options.text == SAMPLE else options.text
    lines = [
        f"# {donor.name} with discrete Mamba-2 mixers",
        "",
        f"Made by `optlayers convert` from {donor.name}: the attention of every layer is replaced "
        f"by a discrete Mamba-2 mixer (state {options.state}), trained towards the donor on "
        f"{text}; all other weights are the donor's, and so is its licence.",
        "",
        f"- layer by layer: relative squared error {done.layers.loss:.3f} on held-out text",
    ]
    if done.end_to_end is not None:
        lines.append(f"- end to end: KL to the donor {done.end_to_end.loss:.3f} nats per token")
    lines.append(f"- {done.tokens:,} tokens of training, seed {options.seed}")
    return "\n".join(lines) + "\n"
