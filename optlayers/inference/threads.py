"""Lanes: batches of narrow layers side by side, each on one thread of the CPU.

A product of a layer a few hundred channels wide is too small for several threads, and what lies
between the products runs on one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import torch

Batch = TypeVar("Batch")
Result = TypeVar("Result")


def in_lanes(
    work: Callable[[Batch], Result], batches: Iterable[Batch], lanes: int
) -> Iterator[Result]:
    """`work(batch)` of each batch in their order, `lanes` at a time, each on one thread.

    An error of one ends it, and leaves out those that have not begun.
    """
    threads = torch.get_num_threads()
    pool = ThreadPoolExecutor(lanes, "lane", initializer=torch.set_num_threads, initargs=(1,))
    try:
        yield from pool.map(work, batches)
    finally:
        pool.shutdown(cancel_futures=True)
        torch.set_num_threads(threads)
