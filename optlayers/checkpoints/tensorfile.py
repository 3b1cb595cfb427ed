"""Safetensors files, copied through one small buffer.

The library's `save_file` needs all tensors of a file in memory. Format
(huggingface.co/docs/safetensors): the length of the header in 8 bytes, little endian; the header,
JSON of name to dtype, shape and data_offsets, padded with spaces; the data.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
from collections.abc import Callable, Sequence
from concurrent.futures import Executor, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import torch

from optlayers.errors import ModelError

BUFFER_BYTES = 16_000_000
# The data begin at a multiple of this, so that they are aligned when the file is mapped.
ALIGNED = 64
# Fewer bytes are hashed faster than a thread is woken.
SMALL_BYTES = 500_000
# The library has the same limit.
MAX_HEADER_BYTES = 100_000_000

FLOATS = {"F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}
BITS = {
    **dict.fromkeys(("F64", "I64", "U64", "C64"), 64),
    **dict.fromkeys(("F32", "I32", "U32"), 32),
    **dict.fromkeys(("F16", "BF16", "I16", "U16"), 16),
    **dict.fromkeys(("I8", "U8", "BOOL"), 8),
    **dict.fromkeys(("F8_E4M3", "F8_E5M2", "F8_E8M0", "F8_E4M3FNUZ", "F8_E5M2FNUZ"), 8),
    **dict.fromkeys(("F6_E2M3", "F6_E3M2"), 6),
    "F4": 4,
}


@dataclass(frozen=True)
class TensorEntry:
    """The place of a tensor: file, dtype as the format names it, shape, first byte, bytes."""

    file: Path
    dtype: str
    shape: tuple[int, ...]
    start: int
    size: int

    def converted(self, dtype: str | None) -> tuple[str, int]:
        """Dtype and bytes after conversion to a dtype of `FLOATS` (None: no conversion).

        Tensors of other dtypes are not converted.
        """
        if dtype is None or self.dtype not in FLOATS:
            return self.dtype, self.size
        return dtype, math.prod(self.shape) * BITS[dtype] // 8


def read_header(path: Path) -> dict[str, TensorEntry]:
    """The place of each tensor in a file; raises `ModelError` for a file that is not whole."""
    try:
        with path.open("rb") as stream:
            length = int.from_bytes(stream.read(8), "little")
            header = json.loads(stream.read(length)) if 0 < length <= MAX_HEADER_BYTES else None
            total = os.fstat(stream.fileno()).st_size
        return _entries(path, header, 8 + length, total)
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise ModelError(
            f"{path} is not a whole safetensors file ({error}); fetch it again"
        ) from None


def _entries(path: Path, header: Any, start: int, total: int) -> dict[str, TensorEntry]:
    found = {}
    for name, place in header.items():
        if name == "__metadata__":
            continue
        first, last = place["data_offsets"]
        shape, dtype = tuple(place["shape"]), place["dtype"]
        if not 0 <= first <= last <= total - start:
            raise ValueError(f"tensor {name} ends at byte {start + last} of {total}")
        if (last - first) * 8 != math.prod(shape) * BITS[dtype]:
            raise ValueError(f"tensor {name} has {last - first} bytes for {dtype} {list(shape)}")
        found[name] = TensorEntry(path, dtype, shape, start + first, last - first)
    return found


def write_tensors(
    path: Path,
    tensors: Sequence[tuple[str, TensorEntry]],
    dtype: str | None = None,
    advance: Callable[[int], None] = lambda written: None,
) -> str:
    """Write a safetensors file from tensors of other files, and flush it; returns its SHA-256.

    dtype: one of `FLOATS`, to convert to. advance: called with the number of bytes written. Raises
    `OSError` for the target, `ModelError` for a source that ends too early or that overflows.
    """
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    end = 0
    for name, entry in tensors:
        kind, size = entry.converted(dtype)
        header[name] = {
            "dtype": kind,
            "shape": list(entry.shape),
            "data_offsets": [end, end + size],
        }
        end += size
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-(8 + len(text)) % ALIGNED)
    with path.open("wb") as stream, ThreadPoolExecutor(max_workers=1) as beside:
        target = _Hashed(stream, beside)
        target.write(len(text).to_bytes(8, "little") + text)
        for name, entry in tensors:
            _copy(name, entry, target, dtype, advance)
        stream.flush()
        os.fsync(stream.fileno())
    return target.digest.hexdigest()


class _Hashed:
    """A file that is written and hashed at the same time."""

    def __init__(self, stream: BinaryIO, beside: Executor) -> None:
        self.stream = stream
        self.beside = beside
        self.digest = hashlib.sha256()

    def write(self, part: bytes | memoryview) -> None:
        """Write some bytes; their buffer may be reused afterwards."""
        if len(part) < SMALL_BYTES:
            self.digest.update(part)
            self.stream.write(part)
            return
        hashing = self.beside.submit(self.digest.update, part)
        self.stream.write(part)
        hashing.result()


def check_overflow(name: str, made: torch.Tensor, source: torch.dtype) -> None:
    """Raise `ModelError` where values of another dtype became infinite in that of `made`."""
    # From one dtype to another of about its range there is nothing to look for.
    if torch.finfo(made.dtype).max * 2 < torch.finfo(source).max and bool(made.isinf().any()):
        dtype = str(made.dtype).removeprefix("torch.")
        raise ModelError(
            f"--dtype {dtype}: tensor {name} holds values beyond {torch.finfo(made.dtype).max:g}, "
            "the largest there; choose bfloat16 or float32"
        )


def _copy(
    name: str,
    entry: TensorEntry,
    target: _Hashed,
    dtype: str | None,
    advance: Callable[[int], None],
) -> None:
    kind, _ = entry.converted(dtype)
    # The buffer holds a whole number of values of any width.
    buffer = bytearray(min(entry.size, BUFFER_BYTES - BUFFER_BYTES % 8))
    # One output for all blocks, since the C library returns freed blocks of this size late.
    count = len(buffer) * 8 // BITS[entry.dtype] if kind != entry.dtype else 0
    values = torch.empty(count, dtype=FLOATS.get(kind))
    with entry.file.open("rb", buffering=0) as source:
        source.seek(entry.start)
        left = entry.size
        while left:
            part = memoryview(buffer)[: min(left, len(buffer))]
            _fill(source, part, entry)
            left -= len(part)
            if kind != entry.dtype:
                block = torch.frombuffer(part, dtype=FLOATS[entry.dtype])
                made = values[: block.numel()].copy_(block)
                check_overflow(name, made, block.dtype)
                part = made.view(torch.uint8).numpy().data
            target.write(part)
            advance(len(part))


def _fill(source: Any, part: memoryview, entry: TensorEntry) -> None:
    filled = 0
    while filled < len(part):
        count = source.readinto(part[filled:])
        if not count:
            raise ModelError(f"{entry.file}: ends in the middle of a tensor; fetch it again")
        filled += count
