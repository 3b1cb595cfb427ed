"""The engine against lm-eval's HFLM on the same hybrids: random weights, MMLU-shaped questions.

    python -m benchmarks.engine.engine --shape llamba-8b --out benchmarks/engine

Shapes: llamba-1b and llamba-8b, made on the device, with 570 questions; demo, the trained pair of
that study with its own 192 questions. Nothing is downloaded. Times are of whole evaluations, side
by side in one run. FLOPs count the weights of the matrix products of the layers, twice, for each
real token.
"""

from __future__ import annotations

import logging
import platform
import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch

from benchmarks.lib import program
from benchmarks.lib.engine_inputs import FirstIsRight, hybrid, questions, random_stack, tokenizer
from optlayers.config.study import load_study
from optlayers.evaluation.engine import Engine
from optlayers.evaluation.evaluator import ModelEvaluator
from optlayers.evaluation.questions import Question
from optlayers.inference.flat import flat_size, flatten
from optlayers.inference.packing import NO_SHARING
from optlayers.inference.prefix_tree import schedule
from optlayers.inference.stack import LayerStack
from optlayers.layerset import LayerSet, LayerSpace

# Parts of a profile, by what their kernels are called; the first that fits counts.
KINDS = {
    "SSD": ("_ssd_kernel",),
    "convolution": ("_convolve_kernel",),
    "attention": ("_attention_kernel", "_rotate_kernel"),
    "SwiGLU": ("_swiglu_kernel",),
    "norms": ("_norm_kernel",),
    "rounding to eight bits": ("_quantise_kernel",),
    "matrix products": ("gemm", "nvjet", "cutlass", "cublas", "matmul"),
    "copies from host memory, beside the rest": ("memcpy htod",),
}
# The same of torch's operations on a CPU.
CPU_KINDS = {
    "attention": ("scaled_dot_product",),
    "products of the SSD": ("aten::bmm",),
    "matrix products": ("aten::mm", "aten::addmm"),
    "copies": ("aten::copy_", "aten::cat"),
}


def seconds(work: Callable[[], Any], device: torch.device) -> float:
    """Seconds of one call, the device's work included."""
    if device.type == "cuda":
        torch.cuda.synchronize()
    start = time.perf_counter()
    work()
    if device.type == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - start


def demo(device: torch.device, dtype: torch.dtype) -> tuple[LayerStack, list[Question]]:
    """The trained pair, and the questions that a search of it asks."""
    found = ModelEvaluator(load_study("demo"), device, dtype)
    order = found.order
    return found.stack, found.tasks.questions(order.subject.tolist(), order.document.tolist())


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
    torch.cuda.empty_cache()
    needed = {(int(i in layers), i) for layers in sets for i in range(stack.n_layers)}
    for side, i in needed:
        stack.sides[side].layers[i].float()
    ends = (stack.embedding, stack.norm, stack.head)
    for module in ends:
        module.float()
    found = Engine(stack, FirstIsRight(), device, packed=False, budget=4096).likelihoods(
        sets, asked
    )[..., 0]
    for side, i in needed:
        layer = stack.sides[side].layers[i].to(torch.bfloat16)
        flatten(layer, torch.empty(flat_size(layer), dtype=torch.bfloat16, device=device))
    for module in ends:
        module.to(torch.bfloat16)
    return np.asarray(found.reshape(len(sets), len(asked), -1).argmax(2))


def profile(
    stack: LayerStack,
    sets: Sequence[LayerSet],
    asked: list[Question],
    device: torch.device,
    coarse: bool,
) -> dict[str, float]:
    """Where the device's time goes, in per cent of the whole time, by kind of kernel."""
    from torch.profiler import ProfilerActivity
    from torch.profiler import profile as record

    engine = Engine(stack, FirstIsRight(), device)
    engine.answers(sets[:1], asked[:150], coarse)
    gpu = device.type == "cuda"
    kinds = KINDS if gpu else CPU_KINDS
    threads = torch.get_num_threads()
    if not gpu:
        torch.set_num_threads(1)  # only this thread is recorded
    with record(activities=[ProfilerActivity.CUDA if gpu else ProfilerActivity.CPU]) as found:
        took = seconds(lambda: engine.answers(sets, asked, coarse), device)
    torch.set_num_threads(threads)
    parts = dict.fromkeys([*kinds, "the rest"], 0.0)
    for event in found.key_averages():
        name = event.key.lower()
        fits = (kind for kind, names in kinds.items() if any(n in name for n in names))
        own = event.self_device_time_total if gpu else event.self_cpu_time_total
        parts[next(fits, "the rest")] += own / 1e6
    if not gpu:
        # Told as shares of all operations.
        took = sum(parts.values())
    beside = parts.get("copies from host memory, beside the rest", 0.0)
    parts["nothing"] = max(0.0, took - (sum(parts.values()) - beside))
    return {kind: 100 * part / took for kind, part in parts.items()}


def main() -> None:
    """Measure, print, save."""
    parser = program.parser(__doc__)
    parser.add_argument("--shape", default="demo", choices=["demo", "llamba-1b", "llamba-8b"])
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--cohort", type=int, default=40)
    parser.add_argument("--hflm-sets", type=int, default=2)
    parser.add_argument("--memory", type=float, help="GB of the device's memory to use")
    parser.add_argument(
        "--skip", nargs="*", default=[], choices=["switches", "shots", "hflm", "neighbours"]
    )
    parser.add_argument("--precisions", nargs="*", default=["model", "fp8"])
    args = parser.parse_args()
    logging.disable(logging.WARNING)  # HFLM talks about being handed a model
    device = torch.device("cuda:0" if args.device == "cuda" else args.device)
    dtype = torch.bfloat16 if device.type == "cuda" else torch.float32
    on = torch.cuda.get_device_name() if device.type == "cuda" else platform.processor()
    stem = f"engine-{args.shape}-{'gpu' if device.type == 'cuda' else 'cpu'}"
    stem += f"-{args.memory:g}gb" if args.memory is not None else ""
    stem += f"-{args.precisions[0]}" if len(args.precisions) == 1 and args.memory is None else ""
    made = program.made_by(__file__, *program.given_arguments())
    note = program.Rows(args.out, stem, made).note
    note("device", f"{on or 'CPU'}, {torch.get_num_threads()} threads, torch {torch.__version__}")
    memory = None
    if args.memory is not None:
        memory = int(args.memory * 1e9)
        torch.cuda.set_per_process_memory_fraction(
            memory / torch.cuda.get_device_properties(device).total_memory, device
        )
    if args.shape == "demo":
        stack, asked = demo(device, dtype)
        args.skip.append("shots")  # its tasks have none
    else:
        stack = random_stack(args.shape, device, dtype, memory)
        asked = questions(stack.sides[0].config.vocab_size, 0)
    tokens = sum(len(q.requests[0].tokens) for q in asked)
    note("questions", f"{len(asked)}, mean {tokens / len(asked):.0f} tokens")
    peak = matmul_peak(device, dtype)
    note("matmul peak", f"{peak / 1e12:.2f} TFLOP/s")

    def measure(sets: Sequence[LayerSet], **options: Any) -> tuple[float, Engine, list[Any]]:
        asking = options.pop("asked", asked)
        coarse = options.pop("coarse", False)
        engine = Engine(stack, FirstIsRight(), device, **options)
        engine.answers(sets[:1], asking[:150], coarse)  # compiles, tunes
        engine.work = type(engine.work)()
        kept: list[Any] = []
        took = seconds(lambda: kept.extend(engine.answers(sets, asking, coarse)), device)
        return took, engine, kept

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
        if device.type == "cuda":
            exact = exact_choices(stack, some, asked, device)
            for who, chosen in (("HFLM 16", first), ("HFLM 64", second), ("engine", mine)):
                note(f"choices that differ from float32, {who}", f"{(chosen != exact).sum()}")
        note("choices that differ, HFLM 16 and engine", f"{(mine != first).sum()} of {mine.size}")

    alone, engine, _ = measure(sets[:1])
    again, _, _ = measure(sets[:1], share=NO_SHARING, trim=False)
    note("tokens a batch", str(engine.budget))

    def times(base: float, took: float) -> str:
        return "" if np.isnan(base) else f"{base / took:.2f} x HFLM, "

    for name, took in (
        ("one candidate alone", alone),
        ("the same, nothing shared and nothing trimmed", again),
    ):
        share = flops(stack, sets[0], tokens) / took / peak
        note(name, f"{took:.3f} s, {times(hflm, took)}{share:.3f} of peak")

    def row(name: str, cohort: Sequence[LayerSet], base: float, **options: Any) -> None:
        """Note one measured cohort."""
        many = len(options.get("asked", asked))
        took, engine, _ = measure(cohort, **options)
        each, work = took / len(cohort), engine.work
        whole = work.layer_tokens + work.saved_layer_tokens + work.saved_context_tokens
        done = work.layer_tokens / whole
        rate = len(schedule(cohort, stack.space)) * many / took
        text = f"{each:.3f} s a candidate, {times(base, each)}{done:.3f} of the work, "
        note(name, f"{text}{rate:,.0f} question-layer passes a second")

    near = LayerSet.of(*(stack.n_layers * i // 4 + 1 for i in range(4)))
    neighbours = LayerSpace(stack.n_layers, len(near), len(near)).neighbours(near)
    cohorts = {
        f"{len(sets)} random sets of 2 to 4 layers": sets,
        f"the {len(neighbours)} neighbours of one set": neighbours,
        "8 random sets": sets[:8],
    }
    parts = [len(asked) // 8, len(asked) // 2]
    long = questions(stack.sides[0].config.vocab_size, 5)
    longer = questions(stack.sides[0].config.vocab_size, 5, 20)
    deep = float("nan")
    if "shots" not in args.skip and "hflm" not in args.skip:
        mean = sum(len(q.requests[0].tokens) for q in long) / len(long)
        note("five shots", f"{len(long)}, mean {mean:.0f} tokens")
        tried = []
        for batch in (16, 32):  # the logits of 64 such prompts do not fit beside the weights
            took, _ = hflm_seconds(stack, sets[:1], long, batch)
            note(f"HFLM, batch {batch}, five shots", f"{took:.3f} s a candidate")
            tried.append(took)
        deep = min(tried)
    for precision in args.precisions:
        if precision == "fp8":
            if not stack.fused or memory is not None:
                continue
            stack.add_eight_bit()
            took, _, _ = measure(sets[:1], coarse=True)
            note("fp8: one candidate alone", f"{took:.3f} s, {times(hflm, took)}".rstrip(", "))
        coarse, mark = precision == "fp8", "fp8: " if precision == "fp8" else ""
        for name, cohort in cohorts.items():
            if "neighbours" not in args.skip or "neighbours" not in name:
                row(mark + name, cohort, hflm, coarse=coarse)
        for part in parts:  # as the rungs of a race ask
            name = f"{mark}8 random sets, {part} questions"
            row(name, sets[:8], hflm * part / len(asked), asked=asked[:: len(asked) // part][:part],
                coarse=coarse)  # fmt: skip
        if "shots" not in args.skip:
            row(f"{mark}five shots, 40 random sets", sets, deep, asked=long, coarse=coarse)
            row(f"{mark}five shots, 20 questions a subject, 40 random sets", sets, 2 * deep,
                asked=longer, coarse=coarse)  # fmt: skip
        for what, percent in profile(stack, sets[:8], asked, device, coarse).items():
            note(f"{mark}time of 8 random sets: {what}", f"{percent:.1f} %")
    if "switches" not in args.skip:
        few = sets[:4]
        row("4 random sets", few, hflm)
        row("4 random sets, no shared layers", few, hflm, tree=False)
        row("4 random sets, no shared contexts", few, hflm, share=NO_SHARING)
        row("4 random sets, padded and eager", few, hflm, packed=False, budget=engine.budget)
        row("4 random sets, head and last layer untrimmed", few, hflm, trim=False)
        mixed = [asked[i] for i in np.random.default_rng(2).permutation(len(asked))]
        row("4 random sets, questions in random order", few, hflm, asked=mixed, sort=False)
        row("4 random sets, padded and eager, questions in random order", few, hflm, asked=mixed,
            sort=False, packed=False, budget=engine.budget)  # fmt: skip
        row("4 random sets, batches of 512 tokens", few, hflm, budget=512)
        row(f"4 random sets, batches of {4 * engine.budget} tokens, 4 times the default", few,
            hflm, budget=4 * engine.budget)  # fmt: skip
        if "shots" not in args.skip:
            row("five shots, 2 random sets, no shared contexts", sets[:2], deep, asked=long,
                share=NO_SHARING)  # fmt: skip
    if device.type == "cuda":
        note("peak memory", f"{torch.cuda.max_memory_allocated() / 2**30:.1f} GiB")


if __name__ == "__main__":
    main()
