"""The discrete Mamba-2 operation (SSD) of Llamba: a step-by-step reference and a fast form.

Shapes: B batch, T tokens, H value heads, P head width, G query-key groups (H a multiple of
G), N state size, Q chunk length, c chunks.

Per head, with a_t = exp(-softplus(A_log_t)):

    S_t = a_t S_(t-1) + x_t B_t^T        S [P, N]
    y_t = S_t C_t + D x_t

Source: Bick et al., "Llamba: Scaling Distilled Recurrent Models for Efficient Language
Processing" (2025), on the structured state-space duality of Dao and Gu, "Transformers are
SSMs" (2024), section 6. Imports torch only, since this file is copied into exported checkpoints.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F

LOG2_E = math.log2(math.e)
# Smaller decays are clamped to this power of two: products of denormal numbers are slow.
MIN_EXPONENT = -100.0


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
    """The recurrence, one token at a time: the slow reference of `ssd`.

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


def chunk_length(width: int, state_size: int) -> int:
    """Tokens per chunk of `ssd`: the power of two that balances its two costs.

    A token costs Q steps within its chunk, and 1/Q of a state of P * N numbers between chunks.
    """
    return int(min(128, max(16, 2 ** math.ceil(math.log2(width * state_size) / 2))))


def ssd(
    x: torch.Tensor,
    A_log: torch.Tensor,
    B: torch.Tensor,
    C: torch.Tensor,
    D: torch.Tensor,
    initial_state: torch.Tensor | None = None,
    return_state: bool = False,
) -> tuple[torch.Tensor, torch.Tensor | None]:
    """The same in matrix form, all chunks at once: y = ((C B^T) * M + D) x + exp(l) C S^T.

    M_ts = exp(l_t - l_s) for s <= t, else 0; l is the cumulative sum of log a within a chunk, S
    the state at its start. Shapes as in `ssd_ref`. The final state is in float32 or wider; None
    without `return_state`.
    """
    length, heads, width = x.shape[1:]
    groups, state_size = B.shape[2:]
    n_chunks = -(-length // chunk_length(width, state_size))
    size = -(-length // n_chunks)
    # In powers of two: torch's exp is many times slower where its result is zero.
    decay = log_decay(A_log) * LOG2_E

    def cut(part: torch.Tensor) -> torch.Tensor:
        """[B, T, H or G, *] as [B, c, H or G, Q, *], padded with zeros."""
        missing = n_chunks * size - length
        if missing:
            part = F.pad(part, (*(0, 0) * (part.dim() - 2), 0, missing))
        shape = (part.shape[0], n_chunks, size, *part.shape[2:])
        return part.reshape(shape).transpose(2, 3)

    x, B, C = cut(x), cut(B), cut(C)
    total = cut(decay[..., None])[..., 0].cumsum(-1)  # [B, c, H, Q]
    future = total.new_full((size, size), -torch.inf).triu(1)
    mask = (total[..., :, None] - total[..., None, :]).clamp(min=MIN_EXPONENT).add_(future)
    mask = mask.exp2_().to(x.dtype)
    # [B, c, H, Q, Q]
    mask = mask.reshape(*mask.shape[:2], groups, -1, size, size)
    weights = ((C @ B.mT)[:, :, :, None] * mask).flatten(2, 3)
    weights.diagonal(dim1=-2, dim2=-1).add_(D.to(x.dtype)[:, None])
    state = initial_state
    if n_chunks > 1 or initial_state is not None or return_state:
        per_group = heads // groups
        left = (total[..., -1:] - total).exp2()[..., None]  # [B, c, H, Q, 1]
        columns = B.repeat_interleave(per_group, dim=2).to(left.dtype) * left
        new = x.mT.to(left.dtype) @ columns  # [B, c, H, P, N]
        whole = total[..., -1, None, None].exp2()  # [B, c, H, 1, 1]
        state = torch.zeros_like(new[:, 0]) if state is None else state.to(new.dtype)
        begins = []
        for chunk in range(n_chunks):
            begins.append(state)
            state = torch.addcmul(new[:, chunk], state, whole[:, chunk])
        rows = C.repeat_interleave(per_group, dim=2) * total.exp2().to(x.dtype)[..., None]
        weights = torch.cat([weights, rows], dim=-1)
        x = torch.cat([x, torch.stack(begins, dim=1).to(x.dtype).mT], dim=-2)
    y = (weights @ x).transpose(2, 3).flatten(1, 2)[:, :length]
    return y, state if return_state else None
