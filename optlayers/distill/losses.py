"""Losses of distillation.

Shapes: B blocks, T tokens of a block, N of all, E hidden size, V vocabulary.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch.utils.checkpoint import checkpoint

CHUNK_VALUES = 100_000_000  # logits that are held at a time


def relative_l2(found: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    """Mean over blocks of the squared error relative to the squared size of the target, in float32.

    found, target [B, T, E]. 0 is equal; 1 is as far off as an output of zeros. Each block counts
    alike, so that the mean over parts of a batch is that of the whole.
    """
    target = target.float()
    size = target.square().sum((1, 2)).clamp(min=1e-12)
    return ((found.float() - target).square().sum((1, 2)) / size).mean()


def _kl(h: torch.Tensor, teacher: torch.Tensor, head: Any, teacher_head: Any) -> torch.Tensor:
    with torch.no_grad():
        wanted = F.log_softmax(teacher_head(teacher).float(), dim=-1)
    found = F.log_softmax(head(h).float(), dim=-1)
    return F.kl_div(found, wanted, reduction="sum", log_target=True)


def forward_kl(h: Any, teacher: Any, head: Any, teacher_head: Any) -> torch.Tensor:
    """Mean KL(teacher || student) per token, in nats, from hidden states [N, E] of both.

    head, teacher_head: give logits [n, V]. Logits are computed in chunks, again in the backward
    pass, so that no more than `CHUNK_VALUES` of them exist at a time.
    """
    vocabulary = int(head.weight.shape[0])
    rows = max(1, CHUNK_VALUES // vocabulary)
    total: torch.Tensor = h.new_zeros((), dtype=torch.float32)
    for mine, theirs in zip(h.split(rows), teacher.split(rows), strict=True):
        part: Any = checkpoint(
            _kl, mine, theirs, head, teacher_head, use_reentrant=False, preserve_rng_state=False
        )
        total = total + part
    return total / len(h)
