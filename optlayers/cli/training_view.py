"""Progress of training on standard error: a line that redraws itself, or one now and then."""

from __future__ import annotations

import contextlib
import math
import time

from rich.console import Console
from rich.live import Live
from rich.text import Text
from transformers.utils import logging

from optlayers.cli.live import LINE_SECONDS, can_redraw
from optlayers.distill.training import TrainingState

STAGES = {"text": "sampling text", "layers": "layers alone", "logits": "end to end"}


class TrainingView(contextlib.AbstractContextManager["TrainingView"]):
    """Shows where a training run is; call it with each `TrainingState`.

    It hides the bars of transformers meanwhile. shown: False in all processes but the first, where
    nothing is printed.
    """

    def __init__(self, shown: bool = True) -> None:
        self.console = Console(stderr=True, highlight=False)
        self._shown = shown
        redraws = shown and can_redraw(self.console)
        self._live = Live(console=self.console, transient=True) if redraws else None
        self._next = 0.0
        self._stage = ""

    def __enter__(self) -> TrainingView:
        self._bars = logging.is_progress_bar_enabled()
        logging.disable_progress_bar()
        if self._live is not None:
            self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._live is not None:
            self._live.stop()
        if self._bars:
            logging.enable_progress_bar()

    def __call__(self, state: TrainingState) -> None:
        """Show a state; off a terminal, at most every few seconds or when a stage ends."""
        if not self._shown:
            return
        text = Text(line(state))
        if self._live is not None:
            self._live.update(text)
            return
        now = time.monotonic()
        if now >= self._next or state.stage != self._stage or state.fraction >= 1.0:
            self._next, self._stage = now + LINE_SECONDS, state.stage
            self.console.print(text, soft_wrap=True)


def line(state: TrainingState) -> str:
    """One line: stage, share, tokens, loss, rate and time left."""
    parts = [
        f"{STAGES.get(state.stage, state.stage)}: {state.fraction:4.0%}",
        f"{state.tokens / 1e6:.1f}M tokens",
    ]
    if not math.isnan(state.loss):
        parts.append(f"loss {state.loss:.4f}")
    parts.append(f"{state.tokens_per_second:,.0f} tokens/s")
    if state.fraction < 1.0:
        minutes, seconds = divmod(round(state.seconds_left), 60)
        parts.append(f"{minutes}:{seconds:02d} left")
    return " · ".join(parts)
