"""Metrics: what of a question counts, and how values that are not 0 or 1 become scores.

Inside a study every value lies between 0 and 1, higher is better, and a score is their weighted
mean. Values in nats (natural logarithms) are put there on one straight scale: 0 nats is 1, a loss
of `NATS` or more is 0. So means, differences and their intervals go back to nats exactly.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Literal

NATS = 20.0
LOGPROB = "logprob"
TextMetric = Literal["perplexity", "kl"]
REAL = (LOGPROB, "perplexity", "kl")


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
    """A score in words, where all of a study is in one unit other than right answers."""
    if len(set(metrics)) != 1 or metrics[0] not in REAL:
        return None
    value = native(metrics[0], score)
    words = {
        LOGPROB: f"mean log-probability {value:.3f}",
        "perplexity": f"perplexity {value:.3f}",
        "kl": f"KL divergence {value:.4f}",
    }
    return words[metrics[0]]
