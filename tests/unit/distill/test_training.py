"""The training loop: what it learns, its budget, and going on after a kill."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from optlayers.distill import training
from optlayers.distill.objectives import LayerObjective, LogitObjective
from optlayers.distill.text import Blocks
from optlayers.distill.training import Budget, Objective, Recipe, Report, Trainer, TrainingState
from optlayers.errors import RunError
from tests.helpers.donors import LENGTH, KillError, Parts, parts_of, random_blocks, tiny_model

BLOCKS = 4
STEP_TOKENS = BLOCKS * LENGTH
STAGES: dict[str, Callable[[Parts], Objective]] = {
    "layers": lambda parts: LayerObjective(parts.teacher, parts.mixers),
    "logits": lambda parts: LogitObjective(parts.teacher, parts.student),
}


class SteppedClock:
    """Stands for the module `time`: a second passes with every batch of blocks."""

    def __init__(self) -> None:
        self.now = 0.0

    def monotonic(self) -> float:
        return self.now


def trainer(
    folder: Path, stage: str, budget: Budget, report: Report = lambda state: None, lr: float = 3e-3
) -> Trainer:
    """A trainer of a fresh student whose state lies in `folder`."""
    objective = STAGES[stage](parts_of(tiny_model(), folder / "donor"))
    file = folder / f"{stage}.pt"
    return Trainer(stage, objective, random_blocks(), Recipe(BLOCKS, lr), budget, file, report)


def weights(trained: Trainer) -> list[torch.Tensor]:
    return [weight for group in trained.objective.groups for weight in group]


@pytest.mark.parametrize("stage", STAGES)
def test_the_held_out_loss_falls(tmp_path: Path, stage: str) -> None:
    made = trainer(tmp_path, stage, Budget(60 * STEP_TOKENS))
    before = made.held_out_loss()
    frozen = [p.clone() for p in made.objective.teacher.model.parameters()]  # type: ignore[attr-defined]
    done = made.run()
    assert done.loss < 0.9 * before
    assert done.loss == made.held_out_loss()
    assert (done.tokens, made.step) == (60 * STEP_TOKENS, 60)
    after = made.objective.teacher.model.parameters()  # type: ignore[attr-defined]
    assert all(torch.equal(a, b) for a, b in zip(frozen, after, strict=True))


@pytest.mark.parametrize("limit", ["tokens", "minutes"])
@pytest.mark.parametrize("stage", STAGES)
def test_a_killed_run_ends_with_the_weights_of_one_that_was_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stage: str, limit: str
) -> None:
    monkeypatch.setattr(training, "SAVE_SECONDS", 0.0)
    clock = SteppedClock()
    if limit == "minutes":
        monkeypatch.setattr(training, "time", clock)
        batch = Blocks.batch

        def slow(self: Any, *arguments: Any) -> torch.Tensor:
            clock.now += 1.0
            return batch(self, *arguments)

        monkeypatch.setattr(Blocks, "batch", slow)
    budget = Budget(25 * STEP_TOKENS) if limit == "tokens" else Budget(minutes=25 / 60)
    whole = trainer(tmp_path / "whole", stage, budget)
    done = whole.run()
    assert whole.step == 25
    seen: list[TrainingState] = []

    def kill(state: TrainingState) -> None:
        seen.append(state)
        if len(seen) == 2:  # at step 20; the last state saved is of step 10
            raise KillError

    with pytest.raises(KillError):
        trainer(tmp_path / "killed", stage, budget, kill).run()
    clock.now += 1_000.0  # the time between does not count
    resumed = trainer(tmp_path / "killed", stage, budget, seen.append)
    assert resumed.step == 10
    found = resumed.run()
    assert (found.tokens, found.loss) == (done.tokens, done.loss)
    assert [state.tokens // STEP_TOKENS for state in seen] == [10, 20, 20, 25]
    assert seen[2].loss == seen[1].loss
    for mine, right in zip(weights(resumed), weights(whole), strict=True):
        assert torch.equal(mine, right)


def test_a_stage_that_is_done_is_read_and_not_run_again(tmp_path: Path) -> None:
    first = trainer(tmp_path, "layers", Budget(2 * STEP_TOKENS))
    done = first.run()
    again = trainer(tmp_path, "layers", Budget(2 * STEP_TOKENS))
    again.objective.loss = None  # type: ignore[method-assign, assignment]
    assert again.run() == done
    for mine, right in zip(weights(again), weights(first), strict=True):
        assert torch.equal(mine, right)
    # Its moments are no longer needed.
    assert torch.load(tmp_path / "layers.pt")["optimizer"] is None


@pytest.mark.parametrize("dtype", [torch.bfloat16])
def test_small_steps_add_up_in_narrow_weights(tmp_path: Path, dtype: torch.dtype) -> None:
    parts = parts_of(tiny_model().to(dtype), tmp_path / "donor")
    objective = LayerObjective(parts.teacher, parts.mixers)
    budget, file = Budget(20 * STEP_TOKENS), tmp_path / "layers.pt"
    made = Trainer("layers", objective, random_blocks(), Recipe(BLOCKS, 1e-4), budget, file)
    before = [w.float().clone() for w in weights(made)]
    made.run()
    masters = torch.load(file)["weights"]
    for master, weight, old in zip(masters, weights(made), before, strict=True):
        assert torch.equal(master.to(dtype), weight)
        assert not torch.equal(master, old)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_loss_that_is_not_finite_ends_the_run(tmp_path: Path, value: float) -> None:
    class BrokenObjective:
        weight = nn.Parameter(torch.zeros(1))
        groups = ((weight,),)

        def loss(self, tokens: torch.Tensor, backward: bool) -> torch.Tensor:
            loss = self.weight.sum() + value
            if backward:
                torch.autograd.backward(loss)
            return loss.detach()

    budget, file = Budget(100 * STEP_TOKENS), tmp_path / "a.pt"
    made = Trainer("layers", BrokenObjective(), random_blocks(), Recipe(BLOCKS, 1e-3), budget, file)
    with pytest.raises(RunError, match=f"layers: the loss is {value} after 1,280 tokens; lower"):
        made.run()
    assert not file.exists()


def test_a_state_that_cannot_be_written_is_one_line(tmp_path: Path) -> None:
    made = trainer(tmp_path, "layers", Budget(STEP_TOKENS))
    made.state_file = tmp_path / "missing" / "layers.pt"
    with pytest.raises(RunError, match=r"layers\.pt: the state cannot be written \(.*; free some"):
        made.run()


def test_too_little_memory_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = trainer(tmp_path, "layers", Budget(STEP_TOKENS))

    def fail(tokens: torch.Tensor, backward: bool) -> torch.Tensor:
        raise torch.OutOfMemoryError("CUDA out of memory.")

    monkeypatch.setattr(made.objective, "loss", fail)
    with pytest.raises(RunError, match="layers: out of memory for 128 tokens at a time; lower --b"):
        made.run()


def test_each_group_is_clipped_alone(tmp_path: Path) -> None:
    """A mixer with large gradients does not slow the others down."""
    made = trainer(tmp_path, "layers", Budget(STEP_TOKENS))
    steep: Any = made.objective.groups[1][0]
    steep.register_hook(lambda grad: grad * 1e6)
    made._train_step(1e-3)
    start = 0
    for group in made.objective.groups:
        masters = made._masters[start : start + len(group)]
        start += len(group)
        norm = torch.stack([m.grad.norm() for m in masters if m.grad is not None]).norm()
        assert 1e-3 < float(norm) <= 1.0 + 1e-4


@pytest.mark.parametrize(
    ("budget", "tokens", "seconds", "share"),
    [
        (Budget(100), 25, 1e9, 0.25),
        (Budget(minutes=1.0), 10**9, 30.0, 0.5),
        (Budget(100, 1.0), 25, 30.0, 0.5),
        (Budget(100, 1.0), 75, 30.0, 0.75),
        (Budget(100, 1.0), 500, 30.0, 1.0),
    ],
)
def test_of_two_limits_the_first_that_is_reached_counts(
    budget: Budget, tokens: int, seconds: float, share: float
) -> None:
    assert budget.fraction(tokens, seconds) == share


def test_the_learning_rate_rises_and_falls() -> None:
    recipe = Recipe(1, 1.0, warmup=0.1)
    rates = [recipe.lr_at(f) for f in (0.0, 0.05, 0.1, 0.55, 1.0)]
    assert rates == pytest.approx([0.01, 0.5, 1.0, 0.5, 0.01])


def test_the_time_left_is_that_of_the_budget(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = SteppedClock()
    monkeypatch.setattr(training, "time", clock)
    seen: list[TrainingState] = []
    made = trainer(tmp_path, "layers", Budget(40 * STEP_TOKENS), seen.append)
    step = made._train_step

    def slow(lr: float) -> torch.Tensor:
        clock.now += 2.0
        return step(lr)

    monkeypatch.setattr(made, "_train_step", slow)
    made.run()
    assert [(s.fraction, s.seconds_left) for s in seen] == [
        (0.25, 60.0),
        (0.5, 40.0),
        (0.75, 20.0),
        (1.0, 0.0),
    ]
    assert {s.tokens_per_second for s in seen} == {STEP_TOKENS / 2.0}
