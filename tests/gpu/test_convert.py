"""The training step of `optlayers convert` as a CUDA graph: the losses of plain steps."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from optlayers.distill.objectives import LayerObjective, LogitObjective
from optlayers.distill.training import Budget, Recipe, Trainer
from tests.helpers.donors import LENGTH, parts_of, random_blocks, tiny_model

pytestmark = pytest.mark.gpu
STEPS, BLOCKS = 12, 4


@pytest.mark.parametrize("stage", ["layers", "logits"])
def test_a_recorded_step_trains_as_a_plain_one(
    tmp_path: Path, cuda: torch.device, dtype: torch.dtype, stage: str
) -> None:
    losses = []
    for graph in (True, False):
        parts = parts_of(tiny_model(), tmp_path / f"model-{graph}")
        for module in (parts.teacher.model, parts.student):
            module.to(device=cuda, dtype=dtype)
        parts.student.requires_grad_(False)
        for mixer in parts.mixers:
            mixer.requires_grad_(True)
        objective: Any = LayerObjective(parts.teacher, parts.mixers)
        if stage == "logits":
            objective = LogitObjective(parts.teacher, parts.student)
        trainer = Trainer(
            stage,
            objective,
            random_blocks(),
            Recipe(BLOCKS, 1e-3),
            Budget(STEPS * BLOCKS * LENGTH),
            tmp_path / f"{stage}-{graph}.pt",
            graph=graph,
        )
        losses.append(trainer.run().loss)
        assert (trainer._recorded is not None) == graph
    assert losses[0] == pytest.approx(losses[1], rel=1e-4 if dtype == torch.float32 else 2e-2)
