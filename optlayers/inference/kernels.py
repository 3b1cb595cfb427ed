"""Kernels of packed layers for NVIDIA GPUs, in Triton; reference: `packed.Ops`.

Arithmetic is in float32, results are rounded to the dtype of the input. Shapes: T packed tokens,
E hidden size, H heads, G groups, P head width, N state size. Sources: Dao, "FlashAttention-2"
(2023), algorithm 1; Dao and Gu, "Transformers are SSMs" (2024), section 6.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl

from optlayers.inference.packed import QUERY_BLOCK, PackedBatch

CHUNK = 64  # tokens per step of the recurrence
# Parts of a head run in parallel where there are too few sequences and heads to fill the device
# (measured on an H100: benchmarks/engine/ssd.py).
WIDE, NARROW, FILLED = 128, 32, 256


@triton.jit
def _norm_kernel(
    x, y, weight, sums, out, eps, E: tl.constexpr, BLOCK: tl.constexpr, ADD: tl.constexpr
):
    row = tl.program_id(0).to(tl.int64)
    cols = tl.arange(0, BLOCK)
    ok = cols < E
    value = tl.load(x + row * E + cols, mask=ok, other=0.0)
    wide = value.to(tl.float32)
    if ADD:
        wide += tl.load(y + row * E + cols, mask=ok, other=0.0).to(tl.float32)
        rounded = wide.to(value.dtype)
        tl.store(sums + row * E + cols, rounded, mask=ok)
        wide = rounded.to(tl.float32)
    scale = tl.rsqrt(tl.sum(wide * wide, 0) / E + eps)
    w = tl.load(weight + cols, mask=ok, other=0.0)
    normed = (wide * scale).to(value.dtype).to(tl.float32) * w.to(tl.float32)
    tl.store(out + row * E + cols, normed.to(value.dtype), mask=ok)


@triton.jit
def _swiglu_kernel(x, out, WIDTH: tl.constexpr, BLOCK: tl.constexpr):
    row = tl.program_id(0).to(tl.int64)
    cols = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    ok = cols < WIDTH
    gate = tl.load(x + row * 2 * WIDTH + cols, mask=ok, other=0.0)
    up = tl.load(x + row * 2 * WIDTH + WIDTH + cols, mask=ok, other=0.0)
    wide = gate.to(tl.float32)
    act = (wide * tl.sigmoid(wide)).to(gate.dtype).to(tl.float32)
    tl.store(out + row * WIDTH + cols, (act * up.to(tl.float32)).to(gate.dtype), mask=ok)


@triton.jit
def _rotate_kernel(
    qkv, cos, sin, stride, HEADS: tl.constexpr, P: tl.constexpr, BLOCK_H: tl.constexpr
):
    """Rotate the first HEADS heads of each row, in place."""
    row = tl.program_id(0).to(tl.int64)
    heads = tl.program_id(1) * BLOCK_H + tl.arange(0, BLOCK_H)
    half = tl.arange(0, P // 2)
    at = qkv + row * stride + heads[:, None] * P + half[None, :]
    ok = (heads < HEADS)[:, None] & (half < P)[None, :]
    first = tl.load(at, mask=ok, other=0.0)
    second = tl.load(at + P // 2, mask=ok, other=0.0).to(tl.float32)
    c = tl.load(cos + row * P + half).to(tl.float32)[None, :]
    s = tl.load(sin + row * P + half).to(tl.float32)[None, :]
    kind = first.dtype
    wide = first.to(tl.float32)
    tl.store(at, (wide * c - second * s).to(kind), mask=ok)
    tl.store(at + P // 2, (second * c + wide * s).to(kind), mask=ok)


@triton.jit
def _attend(
    acc, best, total, q, qkv, stride, col_k, col_v, begin, stop, first_query,
    SCALE: tl.constexpr, P: tl.constexpr, BM: tl.constexpr, BN: tl.constexpr,
    CAUSAL: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """Add the keys begin .. begin + stop of one segment to the running softmax."""
    offs_p = tl.arange(0, P)
    for n in range(0, stop, BN):
        key = n + tl.arange(0, BN)
        ok = key < stop
        at = (begin + key).to(tl.int64)[:, None] * stride + offs_p[None, :]
        k = tl.load(qkv + at + col_k, mask=ok[:, None], other=0.0)
        v = tl.load(qkv + at + col_v, mask=ok[:, None], other=0.0)
        scores = tl.dot(q, tl.trans(k), input_precision=PRECISION) * SCALE
        seen = ok[None, :]
        if CAUSAL:
            seen = seen & ((first_query + tl.arange(0, BM))[:, None] >= key[None, :])
        scores = tl.where(seen, scores, float("-inf"))
        new = tl.maximum(best, tl.max(scores, 1))
        shrink = tl.exp(best - new)
        weights = tl.exp(scores - new[:, None])
        total = total * shrink + tl.sum(weights, 1)
        acc = acc * shrink[:, None]
        acc += tl.dot(weights.to(v.dtype), v, input_precision=PRECISION)
        best = new
    return acc, best, total


@triton.jit
def _attention_kernel(
    qkv, out, table, blocks, n_segments, stride,
    SCALE: tl.constexpr, HQ: tl.constexpr, HK: tl.constexpr, P: tl.constexpr,
    BM: tl.constexpr, BN: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    segment = tl.load(blocks + 2 * tl.program_id(0))
    first = tl.load(blocks + 2 * tl.program_id(0) + 1)
    head = tl.program_id(1)
    begin = tl.load(table + segment)
    length = tl.load(table + n_segments + segment)
    parent = tl.load(table + 2 * n_segments + segment)
    query = first + tl.arange(0, BM)
    ok = query < length
    offs_p = tl.arange(0, P)
    rows = (begin + query).to(tl.int64)[:, None]
    q = tl.load(qkv + rows * stride + head * P + offs_p[None, :], mask=ok[:, None], other=0.0)
    col_k = (HQ + head // (HQ // HK)) * P
    col_v = col_k + HK * P
    acc = tl.zeros((BM, P), tl.float32)
    best = tl.full((BM,), float("-inf"), tl.float32)
    total = tl.zeros((BM,), tl.float32)
    stop = tl.minimum(first + BM, length)
    acc, best, total = _attend(
        acc, best, total, q, qkv, stride, col_k, col_v, begin, stop, first,
        SCALE, P, BM, BN, True, PRECISION,
    )  # fmt: skip
    while parent >= 0:
        begin = tl.load(table + parent)
        stop = tl.load(table + n_segments + parent)
        acc, best, total = _attend(
            acc, best, total, q, qkv, stride, col_k, col_v, begin, stop, 0,
            SCALE, P, BM, BN, False, PRECISION,
        )  # fmt: skip
        parent = tl.load(table + 2 * n_segments + parent)
    acc = acc / total[:, None]
    at = out + rows * (HQ * P) + head * P + offs_p[None, :]
    tl.store(at, acc.to(q.dtype), mask=ok[:, None])


@triton.jit
def _convolve_kernel(
    p, look, weight, bias, out, stride, tokens, CHANNELS: tl.constexpr,
    ROWS: tl.constexpr, BLOCK: tl.constexpr, SILU: tl.constexpr,
):  # fmt: skip
    """Causal depthwise convolution of width 4; `look` [3, T]: the tokens 1, 2, 3 back, or -1."""
    t = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    col = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    ok = t < tokens
    col_ok = col < CHANNELS
    acc = tl.load(bias + col, mask=col_ok, other=0.0).to(tl.float32)[None, :]
    for back in tl.static_range(4):
        source = t
        fine = ok
        if back > 0:
            source = tl.load(look + (back - 1) * tokens + t, mask=ok, other=-1)
            fine = ok & (source >= 0)
        at = p + source.to(tl.int64)[:, None] * stride + col[None, :]
        value = tl.load(at, mask=fine[:, None] & col_ok[None, :], other=0.0)
        w = tl.load(weight + col * 4 + 3 - back, mask=col_ok, other=0.0)
        acc += value.to(tl.float32) * w.to(tl.float32)[None, :]
    if SILU:
        acc = acc * tl.sigmoid(acc)
    at = out + t.to(tl.int64)[:, None] * CHANNELS + col[None, :]
    tl.store(at, acc.to(out.dtype.element_ty), mask=ok[:, None] & col_ok[None, :])


@triton.jit
def _ssd_kernel(
    xbc, za, out, z_bias, d, states, segments, table, n_segments, stride_x, stride_z,
    H: tl.constexpr, G: tl.constexpr, P: tl.constexpr, N: tl.constexpr,
    Q: tl.constexpr, BP: tl.constexpr, BN: tl.constexpr,
    HAS_PAST: tl.constexpr, GATE: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """One segment, head and part of the head's width, chunk by chunk, with the state in registers.

    xbc: rows of x [H P], B [G N], C [G N]; za: rows of z [H P], A_log [H].
    """
    segment = tl.load(segments + tl.program_id(2))
    head = tl.program_id(1)
    group = head // (H // G)
    begin = tl.load(table + segment)
    length = tl.load(table + n_segments + segment)
    slot = tl.load(table + 3 * n_segments + segment)
    kind = xbc.dtype.element_ty
    inner: tl.constexpr = H * P
    offs_p = tl.program_id(0) * BP + tl.arange(0, BP)
    offs_n = tl.arange(0, BN)
    n_ok = offs_n < N
    p_ok = offs_p < P
    col_x = head * P + offs_p
    col_b = inner + group * N + offs_n
    state_at = offs_p[:, None] * N + offs_n[None, :]
    state_ok = p_ok[:, None] & n_ok[None, :]
    state = tl.zeros((BP, BN), tl.float32)
    if HAS_PAST:
        parent = tl.load(table + 2 * n_segments + segment)
        source = tl.load(table + 3 * n_segments + parent)
        place = (source * H + head).to(tl.int64) * (P * N)
        state = tl.load(states + place + state_at, mask=state_ok, other=0.0)
    skip = tl.load(d + head).to(tl.float32)
    steps = tl.arange(0, Q)
    for t0 in range(0, length, Q):
        t = t0 + steps
        ok = t < length
        rows = (begin + t).to(tl.int64)
        fine = ok[:, None] & p_ok[None, :]
        wide = ok[:, None] & n_ok[None, :]
        x = tl.load(xbc + rows[:, None] * stride_x + col_x[None, :], mask=fine, other=0.0)
        at = xbc + rows[:, None] * stride_x + col_b[None, :]
        b = tl.load(at, mask=wide, other=0.0)
        c = tl.load(at + G * N, mask=wide, other=0.0)
        a = tl.load(za + rows * stride_z + inner + head, mask=ok, other=0.0).to(tl.float32)
        # log a_t = -softplus(A_log), without overflow.
        a = -(tl.maximum(a, 0.0) + tl.log(1.0 + tl.exp(-tl.abs(a))))
        a = tl.where(ok, a, 0.0)
        reach = tl.cumsum(a, 0)
        whole = tl.sum(a, 0)
        scores = tl.dot(c, tl.trans(b), input_precision=PRECISION)
        order = steps[:, None] >= steps[None, :]
        fade = tl.exp(tl.where(order, reach[:, None] - reach[None, :], float("-inf")))
        y = tl.dot((scores * fade).to(kind), x, input_precision=PRECISION)
        if HAS_PAST or t0 > 0:
            carried = tl.dot(c, tl.trans(state).to(kind), input_precision=PRECISION)
            y += carried * tl.exp(reach)[:, None]
        y += skip * x.to(tl.float32)
        if GATE:
            at = za + rows[:, None] * stride_z + col_x[None, :]
            z = tl.load(at, mask=fine, other=0.0).to(tl.float32)
            z += tl.load(z_bias + col_x, mask=p_ok, other=0.0).to(tl.float32)[None, :]
            y = y * z * tl.sigmoid(z)
        tl.store(out + rows[:, None] * inner + col_x[None, :], y.to(kind), mask=fine)
        if (slot >= 0) or (t0 + Q < length):
            left = tl.exp(whole - reach)
            fresh = (x.to(tl.float32) * left[:, None]).to(kind)
            state = state * tl.exp(whole)
            state += tl.dot(tl.trans(fresh), b, input_precision=PRECISION)
    if slot >= 0:
        place = (slot * H + head).to(tl.int64) * (P * N)
        tl.store(states + place + state_at, state, mask=state_ok)


def _precision(x: torch.Tensor) -> str:
    return "ieee" if x.dtype == torch.float32 else "tf32"


def add_norm(
    h: torch.Tensor, y: torch.Tensor | None, weight: torch.Tensor, eps: float
) -> tuple[torch.Tensor, torch.Tensor]:
    """h + y (h itself where y is None) and its RMSNorm, all [T, E]; reference: LlamaRMSNorm."""
    out = torch.empty_like(h)
    sums = h if y is None else torch.empty_like(h)
    width = h.shape[1]
    block = triton.next_power_of_2(width)
    _norm_kernel[(h.shape[0],)](
        h, h if y is None else y, weight, sums, out, eps, width, block, y is not None,
        num_warps=4 if block <= 2048 else 8,
    )  # fmt: skip
    return sums, out


def swiglu(x: torch.Tensor) -> torch.Tensor:
    """silu(first half) * second half of x [T, 2 width]."""
    width = x.shape[1] // 2
    out = x.new_empty(x.shape[0], width)
    block = min(2048, triton.next_power_of_2(width))
    _swiglu_kernel[(x.shape[0], triton.cdiv(width, block))](x, out, width, block, num_warps=8)
    return out


def attention(
    qkv: torch.Tensor,
    cos: torch.Tensor,
    sin: torch.Tensor,
    batch: PackedBatch,
    heads: tuple[int, int],
    scale: float,
) -> torch.Tensor:
    """Rotate (in place) and attend: qkv [T, (HQ + 2 HK) P], cos and sin [T, P] -> [T, HQ P].

    heads: (HQ, HK), query heads and key heads.
    """
    queries, keys = heads
    width = qkv.shape[1] // (queries + 2 * keys)
    stride, tokens = qkv.shape[1], qkv.shape[0]
    rotated = queries + keys
    _rotate_kernel[(tokens, triton.cdiv(rotated, 8))](
        qkv, cos, sin, stride, rotated, width, 8, num_warps=4
    )
    out = qkv.new_empty(tokens, queries * width)
    _attention_kernel[(batch.blocks.shape[0], queries)](
        qkv, out, batch.table, batch.blocks, batch.table.shape[1], stride,
        scale, queries, keys, width, QUERY_BLOCK, 64, _precision(qkv), num_warps=4,
    )  # fmt: skip
    return out


def convolve(
    p: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor, batch: PackedBatch, silu: bool
) -> torch.Tensor:
    """The first channels of each row of p, convolved: [T, channels], weight [channels, 1, 4]."""
    tokens, channels = p.shape[0], weight.shape[0]
    out = p.new_empty(tokens, channels)
    block = min(256, triton.next_power_of_2(channels))
    _convolve_kernel[(triton.cdiv(tokens, 16), triton.cdiv(channels, block))](
        p, batch.look, weight, bias, out, p.stride(0), tokens, channels, 16, block, silu,
        num_warps=4,
    )  # fmt: skip
    return out


def ssd_packed(
    xbc: torch.Tensor,
    za: torch.Tensor,
    D: torch.Tensor,
    sizes: tuple[int, int, int, int],
    batch: PackedBatch,
    z_bias: torch.Tensor | None = None,
    states: torch.Tensor | None = None,
) -> torch.Tensor:
    """SSD of xbc [T, x | B | C] and za [T, z | A_log], sizes (H, G, P, N); y [T, H P].

    z_bias: gates y with silu(z + z_bias); None: no gate. states [slots, H, P, N] float32 receives
    the last state of each segment that has a slot. Rows of xbc and za may be slices of wider rows.
    Reference: `ssd.ssd_ref`.
    """
    heads, groups, width, state_size = sizes
    if states is None:
        shape = (max(1, batch.n_slots), heads, width, state_size)
        states = torch.empty(shape, dtype=torch.float32, device=xbc.device)
    out = xbc.new_empty(xbc.shape[0], heads * width)
    # In float32 the tiles are half as long, to fit into shared memory.
    narrow = xbc.dtype == torch.float32
    chunk = 32 if narrow else CHUNK
    for depth, segments in enumerate(batch.levels):
        filled = not narrow and len(segments) * heads >= FILLED
        part = min(WIDE if filled else NARROW, triton.next_power_of_2(width))
        _ssd_kernel[(triton.cdiv(width, part), heads, len(segments))](
            xbc, za, out, D if z_bias is None else z_bias, D, states, segments, batch.table,
            batch.table.shape[1], xbc.stride(0), za.stride(0), heads, groups, width, state_size,
            chunk, max(16, part), max(16, triton.next_power_of_2(state_size)),
            depth > 0, z_bias is not None, _precision(xbc), num_warps=4,
        )  # fmt: skip
    return out
