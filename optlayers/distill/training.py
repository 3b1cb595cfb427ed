"""The training loop: AdamW in float32 for weights of any dtype, resumable, over several processes.

Each process computes gradients on its part of a batch; they are averaged, so that all processes
take the same step.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import torch
from accelerate import PartialState
from torch import nn

from optlayers.distill.processes import raise_once
from optlayers.distill.text import Blocks
from optlayers.errors import RunError, reason

BETAS, WEIGHT_DECAY, CLIP = (0.9, 0.95), 0.01, 1.0
# A state is saved so often, and in this share of the time.
SAVE_SECONDS, SAVE_SHARE = 60.0, 0.05
LOOK_STEPS = 10  # steps between two looks at the loss, which wait for the device
SMOOTHING = 0.7
WARM_STEPS = 3  # before a step is recorded: kernels are compiled in them


class Objective(Protocol):
    """What is trained: groups of weights, each clipped alone, and how gradients are computed."""

    @property
    def groups(self) -> Sequence[Sequence[nn.Parameter]]:
        """The weights to train."""

    def loss(self, tokens: torch.Tensor, backward: bool) -> torch.Tensor:
        """The mean loss of blocks [B, T], a scalar; backward: also add its gradients.

        It must be the mean over parts of a batch, weighted by their blocks.
        """


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


@dataclass(frozen=True)
class Trained:
    """What a stage did: its tokens, its seconds, and the loss on held-out text afterwards."""

    tokens: int
    seconds: float
    loss: float


Report = Callable[[TrainingState], None]


@dataclass
class Trainer:
    """Trains an objective; `state_file` holds the last step, from which a killed run continues.

    All processes must see that file. report: called in the first process alone. graph: on one GPU,
    record the gradients of a step as a CUDA graph; small models wait for the launches of kernels
    otherwise.
    """

    name: str
    objective: Objective
    blocks: Blocks
    recipe: Recipe
    budget: Budget
    state_file: Path
    report: Report = lambda state: None
    graph: bool = True
    step: int = field(default=0, init=False)
    seconds: float = field(default=0.0, init=False)
    _loss: float = field(default=float("nan"), init=False)
    _done: Trained | None = field(default=None, init=False)
    # The CUDA graph of a step, its input and its loss.
    _recorded: tuple[Any, torch.Tensor, torch.Tensor] | None = field(default=None, init=False)

    def __post_init__(self) -> None:
        self.process = PartialState()
        number, of = self._part = self.process.process_index, self.process.num_processes
        # The blocks of a step that this process computes.
        self._share = len(range(self.recipe.blocks)[number::of])
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

    @property
    def tokens(self) -> int:
        """Tokens trained on so far, over all processes."""
        return self.step * self.recipe.blocks * self.blocks.length

    def run(self) -> Trained:
        """Train until the budget is used up; what was done is read where it was done before.

        Raises `RunError` where the loss is not finite, memory is too small, or the state cannot be
        written.
        """
        if self._done is None:
            try:
                self._train()
                self._done = Trained(self.tokens, self.seconds, self.held_out_loss())
            except torch.OutOfMemoryError:
                raise RunError(
                    f"{self.name}: out of memory for {self._share * self.blocks.length:,} tokens "
                    "at a time; lower --batch, or use more GPUs"
                ) from None
            self.save()
        return self._done

    def _train(self) -> None:
        first, began = self.tokens, self.seconds
        started = time.monotonic()
        next_save = started + SAVE_SECONDS
        while (fraction := self._fraction()) < 1.0:
            loss = self._train_step(self.recipe.lr_at(fraction))
            self.step += 1
            self.seconds = began + time.monotonic() - started
            if self.step % LOOK_STEPS and self._fraction() < 1.0:
                continue
            self._look(loss)
            self._show((self.tokens - first) / max(1e-9, self.seconds - began))
            before = time.monotonic()
            if before >= next_save:
                self.save()
                after = time.monotonic()
                next_save = after + max(SAVE_SECONDS, (after - before) / SAVE_SHARE)

    def _look(self, loss: torch.Tensor) -> None:
        """Put the loss of a step into the running mean; raises `RunError` if it is not finite."""
        value = self._mean(loss)
        if not math.isfinite(value):
            raise_once(
                RunError(
                    f"{self.name}: the loss is {value} after {self.tokens:,} tokens; lower the "
                    "learning rate"
                )
            )
        old = self._loss
        self._loss = value if math.isnan(old) else SMOOTHING * old + (1 - SMOOTHING) * value

    def held_out_loss(self) -> float:
        """The mean loss on the held-out blocks."""
        device = self._weights[0].device
        with torch.no_grad():
            found = [
                (len(part), float(self.objective.loss(part.to(device), backward=False)))
                for part in self.blocks.held_out(self._share)
            ]
        return sum(n * loss for n, loss in found) / sum(n for n, _ in found)

    def save(self) -> None:
        """Write the state, by rename; the first process alone. Raises `RunError`."""
        if not self.process.is_main_process:
            return
        state = {
            "step": self.step,
            "seconds": self.seconds,
            "loss": self._loss,
            "done": None if self._done is None else self._done.loss,
            "weights": [w.detach() for w in self._masters],
            "optimizer": self._optimizer.state_dict() if self._done is None else None,
        }
        part = self.state_file.with_suffix(".part")
        try:
            torch.save(state, part)
            part.rename(self.state_file)
        except (OSError, RuntimeError) as error:  # torch raises the latter for a full disk
            raise RunError(
                f"{self.state_file}: the state cannot be written ({reason(error)}); free some "
                "space, and run the same command again to continue"
            ) from None

    def _load(self) -> None:
        if self.state_file.is_file():
            state = torch.load(self.state_file, map_location="cpu", weights_only=True)
            with torch.no_grad():
                for tensors in (self._masters, self._weights):
                    for tensor, value in zip(tensors, state["weights"], strict=True):
                        tensor.copy_(value)
            self.step, self.seconds, self._loss = state["step"], state["seconds"], state["loss"]
            if state["done"] is None:
                self._optimizer.load_state_dict(state["optimizer"])
            else:
                self._done = Trained(self.tokens, self.seconds, state["done"])
        elif self.process.num_processes > 1:
            # They were computed alike, but kernels need not add in one order.
            for master, weight in zip(self._masters, self._weights, strict=True):
                torch.distributed.broadcast(master.data, src=0)
                weight.data.copy_(master.data)

    def _fraction(self) -> float:
        """The used part of the budget; the same in every process."""
        fraction = self.budget.fraction(self.tokens, self.seconds)
        if self.budget.minutes and self.process.num_processes > 1:
            shared = torch.tensor(fraction, device=self._weights[0].device)
            torch.distributed.broadcast(shared, src=0)
            fraction = float(shared)
        return fraction

    def _train_step(self, lr: float) -> torch.Tensor:
        tokens = self.blocks.batch(self.step, self.recipe.blocks, self._part)
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
        """Average the gradients over the blocks of all processes, in one call."""
        if self.process.num_processes == 1:
            return
        grads = [m.grad for m in self._masters if m.grad is not None]
        flat = torch.cat([g.flatten() for g in grads]) * (self._share / self.recipe.blocks)
        torch.distributed.all_reduce(flat)
        for grad, piece in zip(grads, torch.split(flat, [g.numel() for g in grads]), strict=True):
            grad.copy_(piece.view_as(grad))

    def _mean(self, loss: torch.Tensor) -> float:
        if self.process.num_processes > 1:
            loss = loss * (self._share / self.recipe.blocks)
            torch.distributed.all_reduce(loss)
        return float(loss)

    def _show(self, rate: float) -> None:
        if self.process.is_main_process:
            fraction = self.budget.fraction(self.tokens, self.seconds)
            left = self.seconds * (1.0 - fraction) / max(fraction, 1e-9)
            self.report(TrainingState(self.name, fraction, self.tokens, self._loss, rate, left))
