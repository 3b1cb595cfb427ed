"""`optlayers convert`: makes a base from a donor."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from optlayers.cli import options as opt
from optlayers.cli.app import app, say


@app.command()
def convert(
    donor: Annotated[str, typer.Argument(metavar="DONOR", help="A model folder or hub id.")],
    out: Annotated[Path, typer.Option(metavar="DIR", help="A new folder to write.")],
    text: Annotated[
        str,
        typer.Option(
            metavar="SOURCE",
            help="Training text: a text or JSONL file, a dataset as REPO:CONFIG:SPLIT, or sample, "
            "which samples it from the donor.",
        ),
    ] = "sample",
    state: Annotated[
        int, typer.Option(callback=opt.number(1, 256), help="State size of the mixers.")
    ] = 64,
    tokens: Annotated[
        str | None,
        typer.Option(
            callback=opt.tokens(1),
            help="Tokens to train the layers on, such as 20M (default: 20M, or no limit with "
            "--minutes).",
        ),
    ] = None,
    minutes: Annotated[
        float | None,
        typer.Option(
            callback=opt.number(0.01),
            help="Train the layers for so long at most, without the time for text.",
        ),
    ] = None,
    end_to_end: Annotated[
        str | None,
        typer.Option(
            callback=opt.tokens(),
            help="Then train all mixers together on the donor's logits for so many tokens "
            "(default: 0).",
        ),
    ] = None,
    text_tokens: Annotated[
        str | None,
        typer.Option(
            callback=opt.tokens(1),
            help="Tokens of text to sample or read, repeated in training (default: as many as are "
            "trained on, 20M with --minutes alone).",
        ),
    ] = None,
    keep_text: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Keep the sampled text, as JSONL."),
    ] = None,
    length: Annotated[
        int, typer.Option(callback=opt.number(16, 1e6), help="Tokens per sequence.")
    ] = 512,
    batch: Annotated[
        str, typer.Option(callback=opt.tokens(1), help="Tokens per step, over all GPUs.")
    ] = "32k",
    lr: Annotated[
        float, typer.Option(callback=opt.number(1e-9, 1), help="Learning rate of the layers.")
    ] = 1e-3,
    end_to_end_lr: Annotated[
        float, typer.Option(callback=opt.number(1e-9, 1), help="Learning rate of the second stage.")
    ] = 3e-4,
    seed: Annotated[int, typer.Option(help="Seed of sampling and training.")] = 0,
    device: opt.Device = None,
    dtype: opt.Dtype = None,
    json: opt.Json = False,
) -> None:
    """Make a base: the donor with discrete Mamba-2 mixers for attention, trained towards it.

    A killed run continues when the command is repeated. On several GPUs: `accelerate launch -m
    optlayers convert ...`.
    """
    from accelerate import PartialState

    from optlayers.checkpoints.fetch import open_model
    from optlayers.cli.tables import print_json
    from optlayers.cli.training_view import TrainingView
    from optlayers.distill.convert import DEFAULT_TOKENS, ConvertOptions
    from optlayers.distill.convert import convert as run
    from optlayers.distill.processes import together
    from optlayers.inference.device import pick_device, pick_dtype

    process = PartialState(cpu=device == "cpu")
    with together():
        target = pick_device(device)
        if process.num_processes > 1 and target.type != "cpu":
            target = process.device
        options = ConvertOptions(
            text=text,
            state=state,
            tokens=opt.count(tokens) or (0 if minutes else DEFAULT_TOKENS),
            minutes=minutes or 0.0,
            end_to_end=opt.count(end_to_end),
            text_tokens=opt.count(text_tokens),
            length=length,
            batch=opt.count(batch),
            lr=lr,
            end_to_end_lr=end_to_end_lr,
            seed=seed,
            dtype=str(pick_dtype(dtype, target)).removeprefix("torch."),
        )
        model = open_model(donor)
    with TrainingView(shown=process.is_main_process) as view:
        done = run(model, out, options, target, view, keep_text)
    process.destroy_process_group()
    if not process.is_main_process:
        return
    kl = None if done.end_to_end is None else done.end_to_end.loss
    if json:
        print_json(
            {
                "out": str(done.out),
                "tokens": done.tokens,
                "seconds": round(done.seconds, 1),
                "layer_loss": done.layers.loss,
                "kl": kl,
            }
        )
        return
    after = "" if kl is None else f", KL to the donor {kl:.4f} nats a token"
    say(f"on held-out text: relative error of the mixers {done.layers.loss:.4f}{after}")
    print(done.out)
