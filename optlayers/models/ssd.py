"""The discrete Mamba-2 operation (SSD) of Llamba: a step-by-step reference and a fast form.

Shapes: B batch, T tokens, H value heads, P head width, G query-key groups (H a multiple of
G), N state size, Q chunk length.

Per head, with a_t = exp(-softplus(A_log_t)):

    S_t = a_t S_(t-1) + x_t B_t^T        S [P, N]
    y_t = S_t C_t + D x_t

Source: Bick et al., "Llamba: Scaling Distilled Recurrent Models for Efficient Language
Processing" (2025), on the structured state-space duality of Dao and Gu, "Transformers are
SSMs" (2024), section 6. This file depends on torch alone, so that it travels with an
exported checkpoint.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F

CHUNK = 128


def log_decay(A_log: torch.Tensor) -> torch.Tensor:
    """log a_t = -softplus(A_log_t), in float32 or wider. Any shape."""
    return -F.softplus(A_log.to(torch.promote_types(A_log.dtype, torch.float32)))


def ssd_ref(
    x: torch.Tensor,
    A_log: torch.Tensor,
    B: torch.Tensor,
    C: torch.Tensor,
    D: torch.Tensor,
    initial_state: torch.Tensor | None = None,
) -> tuple[torch.Tensor, torch.Tensor]:
    """The recurrence, one token at a time: the slow twin of `ssd`.

    x [B, T, H, P]; A_log [B, T, H]; B, C [B, T, G, N]; D [H]; initial_state [B, H, P, N].
    Returns y [B, T, H, P] and the final state [B, H, P, N], in the dtype of x.
    """
    batch, length, heads, width = x.shape
    groups, state_size = B.shape[2:]
    a = log_decay(A_log).exp().to(x.dtype)  # [B, T, H]
    B = B.repeat_interleave(heads // groups, dim=2)  # [B, T, H, N]
    C = C.repeat_interleave(heads // groups, dim=2)
    state = x.new_zeros(batch, heads, width, state_size)
    if initial_state is not None:
        state = initial_state.to(x.dtype)
    outputs = []
    for t in range(length):
        state = a[:, t, :, None, None] * state + x[:, t, :, :, None] * B[:, t, :, None, :]
        outputs.append((state * C[:, t, :, None, :]).sum(-1) + D[:, None] * x[:, t])
    return torch.stack(outputs, dim=1), state


def ssd(
    x: torch.Tensor,
    A_log: torch.Tensor,
    B: torch.Tensor,
    C: torch.Tensor,
    D: torch.Tensor,
    initial_state: torch.Tensor | None = None,
    return_state: bool = False,
) -> tuple[torch.Tensor, torch.Tensor | None]:
    """The same in matrix form: y = ((C B^T) * M) x + D x in chunks, M a decay mask.

    M_ts = exp(cumsum(log a)_t - cumsum(log a)_s) for s <= t, else 0. Shapes as in `ssd_ref`;
    the final state is None unless asked for (`return_state`), and is in float32 or wider.
    """
    length = x.shape[1]
    decay = log_decay(A_log)
    outputs = []
    state = initial_state
    for start in range(0, length, CHUNK):
        part = slice(start, min(start + CHUNK, length))
        last = part.stop == length
        y, state = _chunk(
            x[:, part], decay[:, part], B[:, part], C[:, part], state, return_state or not last
        )
        outputs.append(y)
    y = outputs[0] if len(outputs) == 1 else torch.cat(outputs, dim=1)
    return torch.addcmul(y, x, D.to(x.dtype)[:, None]), state if return_state else None


def _chunk(
    x: torch.Tensor,
    decay: torch.Tensor,
    B: torch.Tensor,
    C: torch.Tensor,
    state: torch.Tensor | None,
    want_state: bool,
) -> tuple[torch.Tensor, torch.Tensor | None]:
    """One chunk of `ssd`: x [B, Q, H, P], decay [B, Q, H], B, C [B, Q, G, N]."""
    batch, length, heads, _ = x.shape
    groups = B.shape[2]
    per_group = heads // groups
    total = decay.cumsum(1).transpose(1, 2)  # [B, H, Q]
    future = torch.ones(length, length, dtype=torch.bool, device=x.device).triu(1)
    mask = (total[..., :, None] - total[..., None, :]).masked_fill_(future, -torch.inf).exp_()
    weights = C.transpose(1, 2) @ B.permute(0, 2, 3, 1)  # [B, G, Q, Q]
    mask = mask.to(x.dtype).reshape(batch, groups, per_group, length, length)
    weights = (weights[:, :, None] * mask).reshape(batch, heads, length, length)
    y = (weights @ x.transpose(1, 2)).transpose(1, 2)  # [B, Q, H, P]
    if state is not None:
        reach = total.exp().to(x.dtype).transpose(1, 2)[..., None]  # [B, Q, H, 1]
        rows = C.repeat_interleave(per_group, dim=2).transpose(1, 2)  # [B, H, Q, N]
        y = y + (rows @ state.to(x.dtype).transpose(-1, -2)).transpose(1, 2) * reach
    if not want_state:
        return y, None
    left = (total[..., -1:] - total).exp()[..., None]  # [B, H, Q, 1]
    columns = B.repeat_interleave(per_group, dim=2).transpose(1, 2).to(left.dtype)
    new = x.permute(0, 2, 3, 1).to(left.dtype) @ (columns * left)  # [B, H, P, N]
    if state is not None:
        new = new + state.to(left.dtype) * total[..., -1, None, None].exp()
    return y, new


def ssd_step(
    x: torch.Tensor,
    A_log: torch.Tensor,
    B: torch.Tensor,
    C: torch.Tensor,
    D: torch.Tensor,
    state: torch.Tensor,
) -> tuple[torch.Tensor, torch.Tensor]:
    """One token: x [B, H, P], A_log [B, H], B, C [B, G, N], state [B, H, P, N] -> y, state."""
    y, new = ssd_ref(x[:, None], A_log[:, None], B[:, None], C[:, None], D, state)
    return y[:, 0], new
