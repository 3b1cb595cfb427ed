"""Several processes of one run, as `accelerate launch` starts them: an error of one ends all."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import NoReturn

from accelerate import PartialState
from accelerate.utils import gather_object

from optlayers.errors import OptlayersError


def raise_once(error: OptlayersError) -> NoReturn:
    """Raise an error that every process has: in the first one; the others exit without a word."""
    if PartialState().is_main_process:
        raise error
    raise SystemExit(error.exit_code)


@contextlib.contextmanager
def together() -> Iterator[None]:
    """Run lines in every process; an error of any of them is raised as by `raise_once`."""
    mine: OptlayersError | None = None
    try:
        yield
    except OptlayersError as error:
        mine = error
    found = [error for error in gather_object([mine]) if error is not None]
    if found:
        raise_once(found[0])
