"""Metrics: converts values other than right or wrong to scores, and back.

Inside a study every value lies between 0 and 1, higher is better, and a score is a weighted mean of
them. Values in nats (natural logarithms) are scaled linearly: 0 nats is 1, a loss of `NATS` or more
is 0. So means, differences and their intervals convert back to nats exactly.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

NATS = 20.0
LOGPROB = "logprob"
REAL_METRICS = (LOGPROB, "perplexity", "kl")


def to_unit(nats: Any) -> Any:
    """Values of 0 or below, in nats, as values in [0, 1]; numbers or arrays."""
    return 1.0 + nats / NATS


def to_nats(score: float) -> float:
    """The inverse of `to_unit`."""
    return NATS * (score - 1.0)


def native(metric: str, score: float) -> float:
    """A score in the units of its metric: a perplexity, nats of divergence, a log-probability."""
    if metric == "perplexity":
        return math.exp(-to_nats(score))
    if metric == "kl":
        return -to_nats(score)
    return to_nats(score) if metric == LOGPROB else score


def describe(metrics: Sequence[str], score: float) -> str | None:
    """A score in words if all tasks of a study use the same one of `REAL_METRICS`, else None."""
    if len(set(metrics)) != 1 or metrics[0] not in REAL_METRICS:
        return None
    value = native(metrics[0], score)
    return {
        LOGPROB: f"mean log-probability {value:.3f}",
        "perplexity": f"perplexity {value:.3f}",
        "kl": f"KL divergence {value:.4f}",
    }[metrics[0]]
