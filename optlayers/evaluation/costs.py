"""What a layer of each parent costs: bytes of cache a token, or seconds of a decoding step."""

from __future__ import annotations

import statistics
import time

import torch

from optlayers.config.fields import CostKind
from optlayers.inference.loading import Side
from optlayers.inference.stack import LayerStack
from optlayers.models.generation import RecurrentCache
from optlayers.models.hybrid import HybridConfig
from optlayers.trials.cost import Table, counted

# Tokens in the cache before the steps that are timed.
CONTEXT = 1024
WARM, STEPS = 3, 15
# Kinds of layers whose keys and values grow with every token.
GROWING = ("full_attention", "hybrid")


def layer_costs(kind: CostKind, stack: LayerStack) -> Table:
    """The costs of a kind [origins, layers]: the base's layers, then those of each donor."""
    if kind == "layers":
        return counted(stack.space)
    if kind == "latency":
        return [_seconds(stack, origin) for origin in range(len(stack.sides))]
    tables = [kv_bytes(side) for side in stack.sides]
    # The cache belongs to the mixer, and a swapped MLP leaves the base's mixer in place.
    return [tables[0]] * len(tables) if stack.graft.swap == "mlp" else tables


def kv_bytes(side: Side) -> list[float]:
    """The bytes [layers] that one more token adds to the cache of each layer.

    In the dtype that the model's config names (two bytes where it names none). Recurrent layers
    keep a state of one size, and windowed ones no more than their window: 0.
    """
    if not set(side.kinds) & set(GROWING):
        return [0.0] * len(side.kinds)
    config = side.config
    heads = getattr(config, "num_key_value_heads", None) or config.num_attention_heads
    width = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    dtype = getattr(config, "dtype", None)
    each = 2.0 * heads * width * (dtype.itemsize if isinstance(dtype, torch.dtype) else 2)
    return [each if kind in GROWING else 0.0 for kind in side.kinds]


def _seconds(stack: LayerStack, origin: int) -> list[float]:
    """Seconds [layers] that each layer takes to decode one token of one sequence.

    One layer of each kind is timed, with the code that an exported checkpoint runs.
    """
    # Where halves are swapped, layers of both parents run, which may differ in kind.
    kinds = list(zip(*(side.kinds for side in stack.sides), strict=True))
    known = {kind: _time_layer(stack, origin, kinds.index(kind)) for kind in dict.fromkeys(kinds)}
    return [known[kind] for kind in kinds]


@torch.inference_mode()
def _time_layer(stack: LayerStack, origin: int, layer: int) -> float:
    """The median seconds of one layer's decoding steps."""
    weight = next(stack.embedding.parameters())
    device, width = weight.device, stack.sides[0].config.hidden_size
    configs = [side.config.to_dict() for side in stack.sides]
    caches = [RecurrentCache(HybridConfig.of((c, c))) for c in configs]
    generator = torch.Generator(device="cpu").manual_seed(0)
    times = []
    start = 0
    for length in (CONTEXT, *[1] * (WARM + STEPS)):
        h = torch.randn(1, length, width, generator=generator).to(device, weight.dtype)
        positions = torch.arange(start, start + length, device=device)[None]
        inputs = []
        for n, (side, cache) in enumerate(zip(stack.sides, caches, strict=True)):
            kind, place = side.kinds[layer], stack.place(n, layer)
            shared = (side.config, side.rotary, kind, h, positions)
            inputs.append({kind: side.family.inputs(*shared, None, cache, place)})
        _wait(device)
        began = time.perf_counter()
        stack.run(layer, origin, h, tuple(inputs))
        _wait(device)
        times.append(time.perf_counter() - began)
        start += length
    return statistics.median(times[1 + WARM :])


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
