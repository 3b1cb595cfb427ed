"""A hybrid in memory, read tensor by tensor from the source files; nothing is written."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from optlayers.checkpoints.plan import plan_pieces
from optlayers.checkpoints.reader import Checkpoint
from optlayers.checkpoints.writer import hybrid_config
from optlayers.config.graft import WHOLE, Graft
from optlayers.layerset import LayerSet
from optlayers.models.hybrid import HybridForCausalLM


def assemble(
    base: Checkpoint,
    donor: Checkpoint,
    layers: LayerSet,
    dtype: torch.dtype,
    graft: Graft = WHOLE,
    others: Sequence[Checkpoint] = (),
) -> HybridForCausalLM:
    """The hybrid of that layer set on the CPU, in evaluation mode.

    others: the donors after the first.
    Raises `ModelError` for a tensor that is missing or cannot be read.
    """
    config = hybrid_config((base, donor, *others), layers, graft, dtype)
    weights = {
        piece.name: piece.source.tensor(piece.source_name).to(dtype)
        for piece in plan_pieces((base, donor, *others), layers, graft)
    }
    model: HybridForCausalLM = HybridForCausalLM.from_pretrained(
        None, config=config, state_dict=weights, dtype=dtype
    )
    model.eval()
    return model
