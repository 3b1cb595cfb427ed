"""Losses against their formulas, with gradients."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from optlayers.distill import losses
from optlayers.distill.losses import forward_kl, relative_l2


def test_relative_l2_is_the_mean_over_blocks_of_error_over_size() -> None:
    torch.manual_seed(0)
    found, target = torch.randn(5, 7, 3), torch.randn(5, 7, 3) * torch.arange(1.0, 6)[:, None, None]
    wanted = [((f - t) ** 2).sum() / (t**2).sum() for f, t in zip(found, target, strict=True)]
    assert torch.allclose(relative_l2(found, target), torch.stack(wanted).mean())
    assert relative_l2(target, target) == 0
    assert relative_l2(torch.zeros_like(target), target) == 1
    # As several processes compute it.
    parts = [(len(p), relative_l2(found[i::2], p)) for i in (0, 1) for p in [target[i::2]]]
    mean = sum(n * loss for n, loss in parts) / 5
    assert torch.allclose(torch.as_tensor(mean), relative_l2(found, target))


def test_a_target_of_zeros_gives_no_nan() -> None:
    assert relative_l2(torch.zeros(1, 2, 3), torch.zeros(1, 2, 3)) == 0


@pytest.mark.parametrize("chunk", [1, 100, 10_000])
def test_kl_in_chunks_is_that_of_all_logits_with_its_gradients(
    monkeypatch: pytest.MonkeyPatch, chunk: int
) -> None:
    monkeypatch.setattr(losses, "CHUNK_VALUES", chunk)
    torch.manual_seed(0)
    head, teacher_head = (nn.Linear(6, 50, bias=False).double() for _ in range(2))
    h, teacher = (torch.randn(13, 6, dtype=torch.float64) for _ in range(2))
    h.requires_grad_()
    found = forward_kl(h, teacher, head, teacher_head)
    gradients = torch.autograd.grad(found, [h, head.weight])
    p = F.softmax(teacher_head(teacher), dim=-1)
    wanted = (p * (p.log() - F.log_softmax(head(h), dim=-1))).sum(-1).mean()
    assert torch.allclose(found.double(), wanted, rtol=1e-5)
    expected = torch.autograd.grad(wanted, [h, head.weight])
    for mine, right in zip(gradients, expected, strict=True):
        assert torch.allclose(mine, right, rtol=1e-4, atol=1e-8)


def test_kl_to_itself_is_zero() -> None:
    head = nn.Linear(6, 50)
    h = torch.randn(4, 6)
    assert abs(float(forward_kl(h, h, head, head).detach())) < 1e-6
