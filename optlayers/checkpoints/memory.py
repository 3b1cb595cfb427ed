"""A hybrid in memory, read tensor by tensor from the source files; nothing is written."""

from __future__ import annotations

import torch

from optlayers.checkpoints.parents import Parents
from optlayers.checkpoints.plan import plan_pieces
from optlayers.checkpoints.writer import hybrid_config
from optlayers.config.graft import WHOLE, Graft
from optlayers.layerset import LayerSet
from optlayers.models.hybrid import HybridForCausalLM


def assemble(
    parents: Parents, layers: LayerSet, dtype: torch.dtype, graft: Graft = WHOLE
) -> HybridForCausalLM:
    """The hybrid of that layer set on the CPU, in evaluation mode.

    Raises `ModelError` for a tensor that is missing or cannot be read.
    """
    config = hybrid_config(parents, layers, graft, dtype)
    weights = {
        piece.name: piece.source.tensor(piece.source_name).to(dtype)
        for piece in plan_pieces(parents, layers, graft)
    }
    model: HybridForCausalLM = HybridForCausalLM.from_pretrained(
        None, config=config, state_dict=weights, dtype=dtype
    )
    model.eval()
    return model
