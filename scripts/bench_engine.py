"""The engine against lm-eval's HFLM on the same hybrids: random weights, MMLU-shaped questions.

    python scripts/bench_engine.py --shape llamba-8b --out benchmarks

Shapes: demo, llamba-1b, llamba-8b. Everything is made on the device; nothing is downloaded. Times
are of whole evaluations of 570 questions, side by side in one run. FLOPs count the weights of the
matrix products of the layers, twice, for each real token.
"""

from __future__ import annotations

import argparse
import functools
import json
import logging
import platform
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from optlayers.evaluation.engine import Engine  # noqa: E402
from optlayers.evaluation.packing import NO_SHARING  # noqa: E402
from optlayers.evaluation.questions import Question, Request  # noqa: E402
from optlayers.layerset import LayerSet  # noqa: E402
from optlayers.models.families import Family, config_from_dict, family_of  # noqa: E402
from optlayers.models.flat import flat_size, flatten  # noqa: E402
from optlayers.models.hybrid import HybridConfig, HybridForCausalLM  # noqa: E402
from optlayers.models.residency import Layers, place  # noqa: E402
from optlayers.models.stack import LayerStack, Side  # noqa: E402

SUBJECTS, PER_SUBJECT, CHOICES = 57, 10, 4


def shape(name: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """The configs of base and donor."""
    width, layers, heads, keys, inner, vocab, state, value_heads = {
        "demo": (128, 16, 4, 2, 256, 2048, 2, 2),
        "llamba-1b": (2048, 16, 32, 8, 8192, 128256, 64, 32),
        "llamba-8b": (4096, 32, 32, 8, 14336, 128256, 64, 32),
    }[name]
    base = {
        "model_type": "llamba",
        "vocab_size": vocab,
        "d_model": width,
        "n_layer": layers,
        "mlp_cfg": {"intermediate_size": inner},
        "ssm_cfg": {"d_state": state, "n_v_heads": value_heads, "n_qk_heads": value_heads},
    }
    donor = {
        "model_type": "llama",
        "vocab_size": vocab,
        "hidden_size": width,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "num_key_value_heads": keys,
        "intermediate_size": inner,
        "max_position_embeddings": 8192,
    }
    return base, donor


def random_stack(
    name: str, device: torch.device, dtype: torch.dtype, memory: int | None = None
) -> LayerStack:
    """Both parents' layers with random weights of a size that keeps activations near 1.

    memory: bytes of the device to use; layers that do not fit wait in host memory.
    """
    generator = torch.Generator(device).manual_seed(0)

    def fill(module: nn.Module) -> nn.Module:
        for parameter in module.parameters():
            if parameter.dim() == 2:
                scale = parameter.shape[1] ** -0.5
                parameter.data.normal_(0.0, scale, generator=generator)
            elif parameter.dim() == 3:
                parameter.data.normal_(0.0, 0.5, generator=generator)
        return module.eval().requires_grad_(False)

    sides: list[Side] = []
    placement = None
    if memory is not None:
        configs = [config_from_dict(data) for data in shape(name)]
        sizes = [flat_size(empty_layer(family_of(c), c, 0)) * dtype.itemsize for c in configs]
        ends = 2 * configs[0].vocab_size * configs[0].hidden_size * dtype.itemsize
        placement = place((sizes[0], sizes[1]), configs[0].num_hidden_layers, ends, memory)
        print(placement, flush=True)
    old = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        with torch.device(device):
            for data in shape(name):
                config = config_from_dict(data)
                config._attn_implementation = "sdpa"
                family, layers = family_of(config), Layers()
                for i in range(config.num_hidden_layers):
                    layer = fill(family.build_layer(config, i))
                    if placement is not None and not placement.stays(len(sides), i):
                        build = functools.partial(empty_layer, family, config, i)
                        layers.append_away(layer, build, device)
                        continue
                    if device.type == "cuda":
                        flatten(layer, torch.empty(flat_size(layer)))
                    layers.append(layer)
                rotary = family.build_rotary(config) if family.build_rotary else None
                sides.append(Side(family, config, layers, rotary))
            base = sides[0].config
            embedding = nn.Embedding(base.padded_vocab_size, base.hidden_size)
            fill(embedding)
            norm = fill(sides[0].family.build_norm(base))
            head = nn.Linear(base.hidden_size, base.padded_vocab_size, bias=False)
            fill(head)
    finally:
        torch.set_default_dtype(old)
    return LayerStack(sides[0], sides[1], embedding, norm, head)


def empty_layer(family: Family, config: Any, index: int) -> nn.Module:
    """A decoder layer without weights."""
    with torch.device("meta"):
        made: nn.Module = family.build_layer(config, index)
    return made


def questions(vocab: int, shots: int) -> list[Question]:
    """MMLU-shaped: a line that names the subject, `shots` examples, then 25 to 600 tokens.

    As with Llama's tokenizer, the line is 12 tokens that all subjects share and 4 of its own.
    """
    rng = np.random.default_rng(0)

    def draw(count: int) -> tuple[int, ...]:
        return tuple(int(t) for t in rng.integers(100, vocab, count))

    def length() -> int:
        return int(np.clip(rng.lognormal(4.42, 0.55), 25, 600))

    made, line = [], draw(12)
    for subject in range(SUBJECTS):
        header = line + draw(4)
        for _ in range(shots):
            header += draw(length() + 1)
        for document in range(PER_SUBJECT):
            tokens = header + draw(length())
            choices = tuple(Request(tokens, (32 + c,)) for c in range(CHOICES))
            made.append(Question(subject, document, choices))
    return made


class FirstIsRight:
    """Scores a question by its likeliest choice, as lm-eval's acc does."""

    def is_right(self, question: Question, results: Sequence[tuple[float, bool]]) -> bool:
        """The first choice is called right."""
        return int(np.argmax([ll for ll, _ in results])) == 0

    def winners(self, question: Question) -> Any:
        """One-hot."""
        return np.arange(len(question.requests)) == 0


def hybrid(stack: LayerStack, layers: LayerSet) -> Any:
    """The transformers model of a layer set, made of the stack's own modules."""
    base, donor = (side.config for side in stack.sides)
    config = HybridConfig(base.to_dict(), donor.to_dict(), list(layers))
    config._attn_implementation = "sdpa"
    with torch.device("meta"):
        model = HybridForCausalLM(config)
    chosen = [stack.sides[i in layers].layers[i] for i in range(stack.n_layers)]
    model.model.layers = nn.ModuleList(chosen)
    model.model.set_submodule("embed_tokens", stack.embedding)
    model.model.norm = stack.norm
    model.model.rotary = nn.ModuleDict(
        {str(s): side.rotary for s, side in enumerate(stack.sides) if side.rotary is not None}
    )
    model.lm_head = stack.head
    return model.eval()


def tokenizer() -> Any:
    """HFLM wants one; the questions are tokens already."""
    from tokenizers import Tokenizer, models
    from transformers import PreTrainedTokenizerFast

    core = Tokenizer(models.WordLevel({"<|end|>": 0}, unk_token="<|end|>"))
    return PreTrainedTokenizerFast(tokenizer_object=core, eos_token="<|end|>", pad_token="<|end|>")


def seconds(work: Callable[[], Any], device: torch.device) -> float:
    """Seconds of one call, the device's work included."""
    if device.type == "cuda":
        torch.cuda.synchronize()
    start = time.perf_counter()
    work()
    if device.type == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - start


def matmul_peak(device: torch.device, dtype: torch.dtype) -> float:
    """FLOP/s of a large matrix product, median of 20."""
    n = 8192 if device.type == "cuda" else 1024
    a, b = (torch.randn(n, n, device=device, dtype=dtype) for _ in range(2))
    for _ in range(3):
        a @ b
    return 2 * n**3 / float(np.median([seconds(lambda: a @ b, device) for _ in range(20)]))


def hflm_seconds(
    stack: LayerStack, sets: Sequence[LayerSet], asked: list[Question], batch: int
) -> tuple[float, np.ndarray[Any, Any]]:
    """Seconds a candidate of lm-eval's HFLM, and the choice of each question [sets, questions]."""
    from lm_eval.models.huggingface import HFLM

    device = next(stack.embedding.parameters()).device
    requests = [
        ((str(q), str(r)), list(request.tokens), list(request.targets))
        for q, question in enumerate(asked)
        for r, request in enumerate(question.requests)
    ]
    times, chosen = [], []
    for i, layers in enumerate(sets):
        lm = HFLM(
            pretrained=hybrid(stack, layers),
            tokenizer=tokenizer(),
            batch_size=batch,
            max_length=8192,
        )
        if i == 0:  # the device's memory pool settles on the shapes
            lm._loglikelihood_tokens(requests, disable_tqdm=True)
        results: list[Any] = []

        def run(lm: Any = lm, results: list[Any] = results) -> None:
            results.extend(lm._loglikelihood_tokens(requests, disable_tqdm=True))

        times.append(seconds(run, device))
        chosen.append(np.array([ll for ll, _ in results]).reshape(len(asked), -1).argmax(1))
    return float(np.mean(times)), np.array(chosen)


def flops(stack: LayerStack, layers: LayerSet, tokens: int) -> float:
    """FLOPs of one candidate's layers on that many tokens, matrix products with weights alone."""
    weights = [
        sum(p.numel() for p in stack.sides[i in layers].layers[i].parameters() if p.dim() == 2)
        for i in range(stack.n_layers)
    ]
    return 2.0 * sum(weights) * tokens


def random_sets(n_layers: int, count: int) -> list[LayerSet]:
    """Random layer sets of 2 to 4 layers."""
    rng = np.random.default_rng(1)
    return [
        LayerSet(tuple(int(i) for i in rng.choice(n_layers, int(rng.integers(2, 5)), False)))
        for _ in range(count)
    ]


def exact_choices(
    stack: LayerStack, sets: Sequence[LayerSet], asked: list[Question], device: torch.device
) -> np.ndarray[Any, Any]:
    """The choices [sets, questions] that the same weights give in float32."""
    for side in stack.sides:
        for i in range(stack.n_layers):
            side.layers[i].float()
    ends = (stack.embedding, stack.norm, stack.head)
    for module in ends:
        module.float()
    found = Engine(stack, FirstIsRight(), device, packed=False, budget=4096).likelihoods(
        sets, asked
    )[..., 0]
    for side in stack.sides:
        for i in range(stack.n_layers):
            layer = side.layers[i].to(torch.bfloat16)
            flatten(layer, torch.empty(flat_size(layer), dtype=torch.bfloat16, device=device))
    for module in ends:
        module.to(torch.bfloat16)
    return np.asarray(found.reshape(len(sets), len(asked), -1).argmax(2))


def main() -> None:
    """Measure, print, save."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--shape", default="demo", choices=["demo", "llamba-1b", "llamba-8b"])
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--out", type=Path, default=ROOT / "benchmarks")
    parser.add_argument("--cohort", type=int, default=40)
    parser.add_argument("--hflm-sets", type=int, default=2)
    parser.add_argument("--memory", type=float, help="GB of the device's memory to use")
    parser.add_argument(
        "--skip", nargs="*", default=[], choices=["switches", "shots", "hflm", "neighbours"]
    )
    args = parser.parse_args()
    logging.disable(logging.WARNING)  # HFLM talks about being handed a model
    device = torch.device("cuda:0" if args.device == "cuda" else args.device)
    dtype = torch.bfloat16 if device.type == "cuda" else torch.float32
    on = torch.cuda.get_device_name() if device.type == "cuda" else platform.processor()
    table: list[tuple[str, str]] = []

    def note(name: str, value: str) -> None:
        table.append((name, value))
        print(f"{name}: {value}", flush=True)

    note("device", f"{on or 'CPU'}, {torch.get_num_threads()} threads, torch {torch.__version__}")
    memory = None
    if args.memory is not None:
        memory = int(args.memory * 1e9)
        torch.cuda.set_per_process_memory_fraction(
            memory / torch.cuda.get_device_properties(device).total_memory, device
        )
    stack = random_stack(args.shape, device, dtype, memory)
    asked = questions(stack.sides[0].config.vocab_size, 0)
    tokens = sum(len(q.requests[0].tokens) for q in asked)
    note("questions", f"{len(asked)}, mean {tokens / len(asked):.0f} tokens")
    peak = matmul_peak(device, dtype)
    note("matmul peak", f"{peak / 1e12:.2f} TFLOP/s")

    def measure(sets: Sequence[LayerSet], **options: Any) -> tuple[float, Engine, list[Any]]:
        asking = options.pop("asked", asked)
        engine = Engine(stack, FirstIsRight(), device, **options)
        engine.answers(sets[:1], asking[:150])  # compiles, tunes
        engine.work = type(engine.work)()
        kept: list[Any] = []
        return seconds(lambda: kept.extend(engine.answers(sets, asking)), device), engine, kept

    sets = random_sets(stack.n_layers, args.cohort)
    some = sets[: args.hflm_sets]
    hflm = float("nan")
    if "hflm" not in args.skip:
        hflm, first = hflm_seconds(stack, some, asked, 16)
        note("HFLM, batch 16", f"{hflm:.3f} s a candidate")
        other, second = hflm_seconds(stack, some, asked, 64)
        note("HFLM, batch 64", f"{other:.3f} s a candidate")
        hflm = min(hflm, other)
        note("choices that differ, HFLM 16 and 64", f"{(first != second).sum()} of {first.size}")
        likely = Engine(stack, FirstIsRight(), device).likelihoods(some, asked)[..., 0]
        mine = likely.reshape(len(some), len(asked), -1).argmax(2)
        if args.shape != "llamba-8b" and device.type == "cuda":
            exact = exact_choices(stack, some, asked, device)
            for who, chosen in (("HFLM 16", first), ("HFLM 64", second), ("engine", mine)):
                note(f"choices that differ from float32, {who}", f"{(chosen != exact).sum()}")
        note("choices that differ, HFLM 16 and engine", f"{(mine != first).sum()} of {mine.size}")

    alone, engine, _ = measure(sets[:1])
    share = flops(stack, sets[0], tokens) / alone / peak
    again, _, _ = measure(sets[:1], share=NO_SHARING)
    unshared = flops(stack, sets[0], tokens) / again / peak
    note("tokens a batch", str(engine.budget))
    note("one candidate alone", f"{alone:.3f} s, {hflm / alone:.2f} x HFLM, {share:.3f} of peak")
    note("the same, no shared contexts", f"{again:.3f} s, {unshared:.3f} of peak")

    def row(name: str, cohort: Sequence[LayerSet], base: float, **options: Any) -> None:
        took, engine, _ = measure(cohort, **options)
        each, work = took / len(cohort), engine.work
        whole = work.layer_tokens + work.saved_layer_tokens + work.saved_context_tokens
        done = work.layer_tokens / whole
        note(name, f"{each:.3f} s a candidate, {base / each:.2f} x HFLM, {done:.3f} of the work")

    row(f"{len(sets)} random sets of 2 to 4 layers", sets, hflm)
    near = LayerSet.of(*(stack.n_layers * i // 4 + 1 for i in range(4)))
    neighbours = near.neighbours(stack.n_layers, len(near), len(near))
    if "neighbours" not in args.skip:
        row(f"the {len(neighbours)} neighbours of one set", neighbours, hflm)
    if "switches" not in args.skip:
        few = sets[:4]
        row("4 random sets", few, hflm)
        row("4 random sets, no shared layers", few, hflm, tree=False)
        row("4 random sets, no shared contexts", few, hflm, share=NO_SHARING)
        row("4 random sets, padded and eager", few, hflm, packed=False, budget=engine.budget)
        row("4 random sets, head untrimmed", few, hflm, trim=False)
    if "shots" not in args.skip:
        long = questions(stack.sides[0].config.vocab_size, 5)
        mean = sum(len(q.requests[0].tokens) for q in long) / len(long)
        base = float("nan")
        if "hflm" not in args.skip:
            base, _ = hflm_seconds(stack, sets[:1], long, 16)
            note(f"HFLM, batch 16, five shots (mean {mean:.0f} tokens)", f"{base:.3f} s")
        row("five shots, 40 random sets", sets, base, asked=long)
        row("five shots, 2 random sets, no shared contexts", sets[:2], base, asked=long,
            share=NO_SHARING)  # fmt: skip
    if device.type == "cuda":
        note("peak memory", f"{torch.cuda.max_memory_allocated() / 2**30:.1f} GiB")
    args.out.mkdir(parents=True, exist_ok=True)
    stem = f"engine-{args.shape}-{'gpu' if device.type == 'cuda' else 'cpu'}"
    stem += f"-{args.memory:g}gb" if args.memory is not None else ""
    lines = [f"| {name} | {value} |" for name, value in table]
    head = f"# {stem}\n\nMade by `scripts/bench_engine.py --shape {args.shape}`.\n\n"
    head += "| what | |\n|---|---|\n"
    (args.out / f"{stem}.md").write_text(head + "\n".join(lines) + "\n", encoding="utf-8")
    (args.out / f"{stem}.json").write_text(json.dumps(dict(table), indent=1), encoding="utf-8")


if __name__ == "__main__":
    main()
