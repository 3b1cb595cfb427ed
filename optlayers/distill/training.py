"""The training loop: AdamW in float32 for weights of any dtype, resumable, over several processes.

Each process computes gradients on its part of a batch; they are averaged, so that all processes
take the same step.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import torch
from accelerate import PartialState
from torch import nn

from optlayers.distill.text import Blocks
from optlayers.errors import RunError

BETAS, WEIGHT_DECAY, CLIP = (0.9, 0.95), 0.01, 1.0
SAVE_SECONDS = 60.0
SMOOTHING = 0.7
WARM_STEPS = 3  # before a step is recorded: kernels are compiled in them


class Objective(Protocol):
    """What is trained: groups of weights, each clipped alone, and how gradients are computed."""

    @property
    def groups(self) -> Sequence[Sequence[nn.Parameter]]:
        """The weights to train."""

    def loss(self, tokens: torch.Tensor, backward: bool) -> torch.Tensor:
        """The mean loss of tokens [B, T], a scalar; backward: also add its gradients."""


@dataclass(frozen=True)
class Budget:
    """How long to train: until so many tokens, or minutes, whichever comes first (0: no limit)."""

    tokens: int = 0
    minutes: float = 0.0

    def fraction(self, tokens: int, seconds: float) -> float:
        """The part that is used up, 0 to 1."""
        of_tokens = tokens / self.tokens if self.tokens else 0.0
        of_time = seconds / (60.0 * self.minutes) if self.minutes else 0.0
        return min(1.0, max(of_tokens, of_time))


@dataclass(frozen=True)
class Recipe:
    """Blocks per step over all processes, the highest learning rate, and the warm-up's share."""

    blocks: int
    lr: float
    warmup: float = 0.02

    def lr_at(self, fraction: float) -> float:
        """Linear warm-up, then linear cool-down to a hundredth."""
        rise = fraction / self.warmup if self.warmup else 1.0
        fall = (1.0 - fraction) / (1.0 - self.warmup)
        return self.lr * min(1.0, max(0.01, min(rise, fall)))


@dataclass(frozen=True)
class TrainingState:
    """Where a run is: for its progress display."""

    stage: str
    fraction: float
    tokens: int
    loss: float
    tokens_per_second: float
    seconds_left: float


Report = Callable[[TrainingState], None]


@dataclass
class Trainer:
    """Trains an objective; `state_file` holds the last step, from which a killed run continues.

    graph: on one GPU, record the gradients of a step as a CUDA graph; small models wait for the
    launches of kernels otherwise.
    """

    name: str
    objective: Objective
    blocks: Blocks
    recipe: Recipe
    budget: Budget
    state_file: Path
    report: Report = lambda state: None
    graph: bool = True
    step: int = 0
    seconds: float = 0.0
    tokens: int = 0
    _loss: float = field(default=float("nan"), init=False)
    # The CUDA graph of a step, its input and its loss.
    _recorded: tuple[Any, torch.Tensor, torch.Tensor] | None = field(default=None, init=False)

    def __post_init__(self) -> None:
        self.process = PartialState()
        self._weights = [w for group in self.objective.groups for w in group]
        # Copies in float32: steps are smaller than what bfloat16 can tell apart.
        self._masters = [w.detach().float().clone().requires_grad_() for w in self._weights]
        self._optimizer = torch.optim.AdamW(
            self._masters,
            lr=self.recipe.lr,
            betas=BETAS,
            weight_decay=WEIGHT_DECAY,
            fused=self._weights[0].is_cuda,
        )
        self._load()
        self._first = self.step

    def run(self) -> None:
        """Train until the budget is used up; raises `RunError` where the loss is not finite."""
        started, first = time.monotonic() - self.seconds, self.tokens
        began = self.seconds
        saved = time.monotonic()
        while (fraction := self._fraction()) < 1.0:
            loss = self._train_step(self.recipe.lr_at(fraction))
            self.step += 1
            self.tokens = self.step * self.recipe.blocks * self.blocks.length
            if self.step % 10 == 0 or self._fraction() >= 1.0:
                value = self._mean(loss)
                if value != value or value == float("inf"):
                    raise RunError(
                        f"{self.name}: the loss is {value} after {self.tokens:,} tokens; lower --lr"
                    )
                old = self._loss
                self._loss = value if old != old else SMOOTHING * old + (1 - SMOOTHING) * value
                self.seconds = time.monotonic() - started
                rate = (self.tokens - first) / max(1e-9, self.seconds - began)
                self._show(rate)
            if time.monotonic() - saved > SAVE_SECONDS:
                self.save()
                saved = time.monotonic()
        self.save()

    def held_out_loss(self) -> float:
        """The mean loss on the held-out blocks."""
        size = max(1, self.recipe.blocks // self.process.num_processes)
        device = self._weights[0].device
        with torch.no_grad():
            found = [
                (len(part), float(self.objective.loss(part.to(device), backward=False)))
                for part in self.blocks.held_out(size)
            ]
        return sum(n * loss for n, loss in found) / sum(n for n, _ in found)

    def save(self) -> None:
        """Write the state, by rename; the first process alone."""
        if not self.process.is_main_process:
            return
        state = {
            "step": self.step,
            "seconds": self.seconds,
            "loss": self._loss,
            "weights": [w.detach() for w in self._masters],
            "optimizer": self._optimizer.state_dict(),
        }
        part = self.state_file.with_suffix(".part")
        torch.save(state, part)
        part.rename(self.state_file)

    def _load(self) -> None:
        if not self.state_file.is_file():
            return
        state = torch.load(self.state_file, map_location="cpu", weights_only=True)
        with torch.no_grad():
            for master, weight, value in zip(
                self._masters, self._weights, state["weights"], strict=True
            ):
                master.copy_(value)
                weight.copy_(value)
        self._optimizer.load_state_dict(state["optimizer"])
        self.step, self.seconds, self._loss = state["step"], state["seconds"], state["loss"]
        self.tokens = self.step * self.recipe.blocks * self.blocks.length

    def _fraction(self) -> float:
        """The used part of the budget; the same in every process."""
        fraction = self.budget.fraction(self.tokens, self.seconds)
        if self.budget.minutes and self.process.num_processes > 1:
            shared = torch.tensor(fraction, device=self._weights[0].device)
            torch.distributed.broadcast(shared, src=0)
            fraction = float(shared)
        return fraction

    def _train_step(self, lr: float) -> torch.Tensor:
        part = (self.process.process_index, self.process.num_processes)
        tokens = self.blocks.batch(self.step, self.recipe.blocks, part)
        loss = self._gradients(tokens.to(self._weights[0].device))
        for master, weight in zip(self._masters, self._weights, strict=True):
            master.grad = None if weight.grad is None else weight.grad.float()
        self._average()
        start = 0
        for group in self.objective.groups:
            nn.utils.clip_grad_norm_(self._masters[start : start + len(group)], CLIP)
            start += len(group)
        for settings in self._optimizer.param_groups:
            settings["lr"] = lr
        self._optimizer.step()
        with torch.no_grad():
            torch._foreach_copy_(list(self._weights), self._masters)
        return loss.detach()

    def _gradients(self, tokens: torch.Tensor) -> torch.Tensor:
        """The loss of a batch [B, T]; its gradients are those of the weights."""
        if self._recorded is not None:
            graph, batch, loss = self._recorded
            batch.copy_(tokens)
            graph.replay()
            return loss
        for weight in self._weights:
            weight.grad = None
        records = self.graph and tokens.is_cuda and self.process.num_processes == 1
        if not records or self.step - self._first < WARM_STEPS:
            return self.objective.loss(tokens, backward=True)
        graph, batch = torch.cuda.CUDAGraph(), tokens.clone()
        with torch.cuda.graph(graph):
            loss = self.objective.loss(batch, backward=True)
        self._recorded = graph, batch, loss
        return self._gradients(tokens)

    def _average(self) -> None:
        """Average the gradients over the processes, in one call."""
        if self.process.num_processes == 1:
            return
        grads = [m.grad for m in self._masters if m.grad is not None]
        flat = torch.cat([g.flatten() for g in grads]) / self.process.num_processes
        torch.distributed.all_reduce(flat)
        for grad, piece in zip(grads, flat.split([g.numel() for g in grads]), strict=True):
            grad.copy_(piece.view_as(grad))

    def _mean(self, loss: torch.Tensor) -> float:
        if self.process.num_processes > 1:
            torch.distributed.all_reduce(loss)
            loss = loss / self.process.num_processes
        return float(loss)

    def _show(self, rate: float) -> None:
        if self.process.is_main_process:
            fraction = self.budget.fraction(self.tokens, self.seconds)
            left = self.seconds * (1.0 - fraction) / max(fraction, 1e-9)
            self.report(TrainingState(self.name, fraction, self.tokens, self._loss, rate, left))
