"""Batches of narrow layers in parallel, each on one thread of the CPU.

A product of a layer a few hundred channels wide is too small for several threads, and the steps
between the products run on one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import torch

Batch = TypeVar("Batch")
Result = TypeVar("Result")


def map_in_threads(
    work: Callable[[Batch], Result], batches: Iterable[Batch], threads: int
) -> Iterator[Result]:
    """`work(batch)` for each batch in order, `threads` at a time, each on one thread of torch.

    An error ends the iteration; batches that have not started are dropped.
    """
    before = torch.get_num_threads()
    pool = ThreadPoolExecutor(threads, "batch", initializer=torch.set_num_threads, initargs=(1,))
    try:
        yield from pool.map(work, batches)
    finally:
        pool.shutdown(cancel_futures=True)
        torch.set_num_threads(before)
