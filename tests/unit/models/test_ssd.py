from __future__ import annotations

import functools

import pytest
import torch

from optlayers.models.ssd import chunk_length, ssd, ssd_ref

Inputs = tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]


def inputs(length: int, heads: int = 4, groups: int = 2, dtype: str = "float64") -> Inputs:
    """x [2, T, H, 3], A_log [2, T, H], B and C [2, T, G, 5], D [H]."""
    g = torch.Generator().manual_seed(length)
    kind = getattr(torch, dtype)

    def draw(*shape: int) -> torch.Tensor:
        return torch.randn(shape, generator=g, dtype=torch.float64).to(kind)

    x, a = draw(2, length, heads, 3), draw(2, length, heads) - 3
    return x, a, draw(2, length, groups, 5), draw(2, length, groups, 5), draw(heads)


@pytest.mark.parametrize("length", [1, 5, 128, 129, 300])
@pytest.mark.parametrize("groups", [1, 2, 4])
def test_the_fast_form_equals_the_recurrence(length: int, groups: int) -> None:
    given = inputs(length, groups=groups)
    expected, state = ssd_ref(*given)
    y, final = ssd(*given, return_state=True)
    torch.testing.assert_close(y, expected, rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(final, state, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("length", [1, 5, 129])
def test_the_fast_form_continues_from_an_initial_state(length: int) -> None:
    given = inputs(length)
    start = torch.randn(2, 4, 3, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(9))
    expected, state = ssd_ref(*given, initial_state=start)
    y, final = ssd(*given, initial_state=start, return_state=True)
    torch.testing.assert_close(y, expected, rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(final, state, rtol=1e-10, atol=1e-10)
    assert not torch.allclose(y, ssd(*given)[0])


def test_two_halves_with_the_state_between_equal_the_whole() -> None:
    x, a, b, c, d = inputs(200)
    whole, end = ssd(x, a, b, c, d, return_state=True)
    first, middle = ssd(x[:, :70], a[:, :70], b[:, :70], c[:, :70], d, return_state=True)
    second, last = ssd(x[:, 70:], a[:, 70:], b[:, 70:], c[:, 70:], d, middle, return_state=True)
    torch.testing.assert_close(torch.cat([first, second], 1), whole, rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(last, end, rtol=1e-10, atol=1e-10)


def test_gradients_equal_those_of_the_recurrence() -> None:
    grads = []
    for form in (functools.partial(ssd, return_state=True), ssd_ref):
        given = [part.requires_grad_() for part in inputs(40)]
        start = torch.full((2, 4, 3, 5), 0.5, dtype=torch.float64, requires_grad=True)
        x, a, b, c, d = given
        y, state = form(x, a, b, c, d, initial_state=start)
        assert state is not None
        grads.append(torch.autograd.grad(y.square().sum() + state.sum(), [*given, start]))
    for fast, slow in zip(*grads, strict=True):
        torch.testing.assert_close(fast, slow, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize(("width", "state", "chunk"), [(64, 2, 16), (64, 64, 64), (128, 64, 128)])
def test_chunks_grow_with_the_state(width: int, state: int, chunk: int) -> None:
    assert chunk_length(width, state) == chunk


def test_the_state_is_returned_on_request_only() -> None:
    assert ssd(*inputs(5))[1] is None
    assert ssd(*inputs(300))[1] is None


def test_later_tokens_change_nothing_before() -> None:
    x, a, b, c, d = inputs(150)
    before, _ = ssd(x, a, b, c, d)
    x2, b2 = x.clone(), b.clone()
    x2[:, 140:], b2[:, 140:] = 5.0, -5.0
    after, _ = ssd(x2, a, b2, c, d)
    assert torch.equal(before[:, :140], after[:, :140])
    assert not torch.equal(before[:, 140:], after[:, 140:])


@pytest.mark.parametrize("shift", [-60.0, 60.0])
def test_extreme_decays_stay_finite_and_right(shift: float) -> None:
    x, a, b, c, d = inputs(140, dtype="float32")
    y, _ = ssd(x, a + shift, b, c, d)
    expected, _ = ssd_ref(x.double(), a.double() + shift, b.double(), c.double(), d.double())
    torch.testing.assert_close(y.double(), expected, rtol=1e-3, atol=1e-3)


def test_bfloat16_stays_near_the_recurrence() -> None:
    given = inputs(200, dtype="bfloat16")
    x, a, b, c, d = (t.double() for t in given)
    expected, _ = ssd_ref(x, a, b, c, d)
    y, state = ssd(*given, return_state=True)
    assert y.dtype == torch.bfloat16
    assert state is not None
    assert state.dtype == torch.float32
    error = (y.double() - expected).norm() / expected.norm()
    assert error < 0.02
