"""All weights of a layer in one buffer, so that projections join and a layer moves in one copy."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

ALIGN = 128  # elements

# Projections of one input; adjacent in the buffer, they are one matrix product.
GROUPS = (("self_attn", ("q_proj", "k_proj", "v_proj")), ("mlp", ("gate_proj", "up_proj")))


def _joined(layer: Any) -> list[tuple[Any, list[nn.Parameter], list[nn.Parameter]]]:
    """The groups that a layer has: (owner, weights, biases)."""
    found: list[tuple[Any, list[Any], list[Any]]] = []
    for owner_name, names in GROUPS:
        owner = getattr(layer, owner_name, None)
        parts = [getattr(owner, name, None) for name in names]
        linear = [part for part in parts if isinstance(part, nn.Linear)]
        biases = [part.bias for part in linear if part.bias is not None]
        if len(linear) == len(names) and len(biases) in (0, len(names)):
            found.append((owner, [part.weight for part in linear], biases))
    return found


def _runs(layer: nn.Module) -> list[list[nn.Parameter]]:
    """The parameters of a layer in runs that must be adjacent."""
    groups = _joined(layer)
    runs = [run for _, weights, biases in groups for run in (weights, biases) if run]
    taken = {id(parameter) for run in runs for parameter in run}
    return runs + [[p] for p in layer.parameters() if id(p) not in taken]


def flat_size(layer: nn.Module) -> int:
    """Elements of the buffer that a layer needs."""
    return sum(-(-sum(p.numel() for p in run) // ALIGN) * ALIGN for run in _runs(layer))


def flatten(layer: nn.Module, buffer: torch.Tensor, copy: bool = True) -> None:
    """Make every parameter a view of `buffer` [flat_size(layer)].

    The owner of joined projections gets `joined_weight` and `joined_bias`, views that cover them.
    copy: False keeps the contents of the buffer as the weights.
    """
    views: dict[int, torch.Tensor] = {}
    spans: dict[int, torch.Tensor] = {}
    start = 0
    for run in _runs(layer):
        begin = start
        for parameter in run:
            view = buffer[start : start + parameter.numel()].view(parameter.shape)
            if copy:
                view.copy_(parameter.data)
            views[id(parameter)] = view
            start += parameter.numel()
        spans[id(run[0])] = buffer[begin:start]
        start = -(-start // ALIGN) * ALIGN
    for owner, weights, biases in _joined(layer):
        owner.joined_weight = spans[id(weights[0])].view(-1, weights[0].shape[1])
        owner.joined_bias = spans[id(biases[0])] if biases else None
    for module in layer.modules():
        for name, parameter in list(module.named_parameters(recurse=False)):
            setattr(module, name, nn.Parameter(views[id(parameter)], requires_grad=False))


def weight_and_bias(owner: Any) -> tuple[torch.Tensor, torch.Tensor | None]:
    """Those of a linear layer, or of the joined projections of an owner."""
    if hasattr(owner, "joined_weight"):
        return owner.joined_weight, owner.joined_bias
    return owner.weight, owner.bias
