"""What a layer of each parent costs: bytes of cache a token, or seconds of a decoding step."""

from __future__ import annotations

import statistics
import time
from typing import Any

import torch

from optlayers.config.study import CostKind
from optlayers.inference.loading import Side
from optlayers.inference.stack import LayerStack
from optlayers.models.generation import RecurrentCache
from optlayers.models.hybrid import HybridConfig
from optlayers.trials.cost import Table, counted

# Tokens in the cache before the steps that are timed.
CONTEXT = 1024
WARM, STEPS = 3, 15
# Keys and values of these layers grow with every token; a window's end growing once it is full.
GROWING = ("full_attention", "hybrid")


def layer_costs(kind: CostKind, stack: LayerStack) -> Table:
    """The costs of a kind [origins, layers]: the base's layers, then those of each donor."""
    if kind == "layers":
        return counted(stack.space)
    if kind == "latency":
        return [_seconds(stack, origin) for origin in range(len(stack.sides))]
    tables = [kv_bytes(side) for side in stack.sides]
    # Whoever gives the mixer gives the cache.
    return [tables[0]] * len(tables) if stack.graft.swap == "mlp" else tables


def kv_bytes(side: Side) -> list[float]:
    """The bytes [layers] by which a further token grows the cache of each layer.

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
    """Seconds [layers] of one layer's part in decoding one token of one sequence.

    One layer of each kind is timed, with the code that an exported checkpoint runs.
    """
    # The layers of base and donor that work together where halves are swapped may differ in kind.
    kinds = list(zip(*(side.kinds for side in stack.sides), strict=True))
    known: dict[tuple[str, ...], float] = {}
    for layer, kind in enumerate(kinds):
        if kind not in known:
            known[kind] = _time_layer(stack, origin, layer)
    return [known[kind] for kind in kinds]


@torch.inference_mode()
def _time_layer(stack: LayerStack, origin: int, layer: int) -> float:
    """The median seconds of a step of one layer."""
    weight = next(stack.embedding.parameters())
    device, width = weight.device, stack.sides[0].config.hidden_size
    caches = [_cache(side.config) for side in stack.sides]
    made = torch.Generator(device="cpu").manual_seed(0)
    times = []
    at = 0
    for length in (CONTEXT, *[1] * (WARM + STEPS)):
        h = torch.randn(1, length, width, generator=made).to(device=device, dtype=weight.dtype)
        positions = torch.arange(at, at + length, device=device)[None]
        inputs = tuple(
            {
                kind: side.family.inputs(
                    side.config, side.rotary, kind, h, positions, None, cache, stack.place(n, layer)
                )
                for kind in {side.kinds[layer]}
            }
            for n, (side, cache) in enumerate(zip(stack.sides, caches, strict=True))
        )
        _wait(device)
        began = time.perf_counter()
        stack.run(layer, origin, h, inputs)
        _wait(device)
        times.append(time.perf_counter() - began)
        at += length
    return statistics.median(times[1 + WARM :])


def _cache(config: Any) -> RecurrentCache:
    """An empty cache of one parent."""
    data = config.to_dict()
    return RecurrentCache(HybridConfig(base_config=data, donor_config=data))


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
