"""What a layer costs, for families whose layers are of several kinds."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from optlayers.checkpoints.assembly import assemble
from optlayers.checkpoints.parents import Parents
from optlayers.evaluation.costs import layer_costs
from optlayers.inference.stack import LayerStack
from optlayers.layerset import LayerSet
from tests.helpers.families import saved, tiny
from tests.helpers.tiny import cache_bytes

CPU = torch.device("cpu")


@pytest.mark.parametrize("kind", ["bamba", "falcon_h1", "gemma3_text", "granitemoehybrid"])
def test_the_cache_grows_as_computed_and_every_kind_of_layer_is_timed(
    kind: str, tmp_path: Path
) -> None:
    base, donor = saved(tiny(kind, 3), tmp_path / kind), saved(tiny("qwen3", 1), tmp_path / "donor")
    parents = Parents(base, (donor,))
    stack = LayerStack.load(parents, CPU, torch.float32)
    for costs in layer_costs("latency", stack):
        assert all(0 < seconds < 1 for seconds in costs)
    mine, theirs = layer_costs("kv_bytes", stack)
    for layers in (LayerSet(()), LayerSet.of(1, 4)):
        model = assemble(parents, layers, torch.float32)
        expected = sum(theirs[i] if i in layers else mine[i] for i in range(6))
        # Beyond the windows, which are of 8 tokens.
        assert cache_bytes(model, 31) - cache_bytes(model, 30) == expected
