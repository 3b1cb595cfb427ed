"""What a student is trained for, each as an `Objective` of the training loop.

Shapes: B blocks, T tokens, E hidden size.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn

from optlayers.distill.losses import forward_kl, relative_l2
from optlayers.distill.teacher import Teacher
from optlayers.models.llamba import LlambaForCausalLM


class LayerObjective:
    """Each mixer alone: the donor's normed input of a layer to the donor's attention output.

    The donor runs once, and each mixer is trained where its layer runs, so that memory does not
    grow with the number of layers.
    """

    def __init__(self, teacher: Teacher, mixers: Sequence[nn.Module]) -> None:
        self.teacher, self.mixers = teacher, mixers

    @property
    def groups(self) -> list[list[nn.Parameter]]:
        """One group for each mixer."""
        return [list(mixer.parameters()) for mixer in self.mixers]

    def loss(self, tokens: torch.Tensor, backward: bool) -> torch.Tensor:
        """The mean over layers of `relative_l2`."""
        losses: list[torch.Tensor] = []

        def train(number: int, x: torch.Tensor, target: torch.Tensor) -> None:
            with torch.set_grad_enabled(backward):
                loss = relative_l2(self.mixers[number](x), target)
                if backward:
                    torch.autograd.backward(loss)
            losses.append(loss.detach())

        self.teacher.states(tokens, train)
        return torch.stack(losses).mean()


class LogitObjective:
    """The whole student: KL from the donor's next-token distribution to the student's."""

    def __init__(self, teacher: Teacher, student: LlambaForCausalLM) -> None:
        self.teacher, self.student = teacher, student

    @property
    def groups(self) -> list[list[nn.Parameter]]:
        """One group: what of the student has gradients."""
        return [[p for p in self.student.parameters() if p.requires_grad]]

    def loss(self, tokens: torch.Tensor, backward: bool) -> torch.Tensor:
        """See `losses.forward_kl`."""
        wanted = self.teacher.states(tokens).flatten(0, 1)
        with torch.set_grad_enabled(backward):
            h = self.student.backbone(tokens, use_cache=False).last_hidden_state.flatten(0, 1)
            found = forward_kl(h, wanted, self.student.lm_head, self.teacher.model.lm_head)
            if backward:
                torch.autograd.backward(found)
        return found.detach()
