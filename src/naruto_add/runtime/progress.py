"""Progress of long loops: a bar on a terminal, a few lines in a log."""

import sys
from collections.abc import Iterable
from typing import TypeVar

from tqdm import tqdm

T = TypeVar("T")

LOG_INTERVAL_SECONDS = 30.0


def progress(iterable: Iterable[T], *, desc: str, total: int | None = None, initial: int = 0) -> "tqdm[T]":
    """Iterate with a progress bar on a terminal, or with at most one line per half minute in a log."""
    on_terminal = sys.stderr.isatty()
    return tqdm(
        iterable,
        desc=desc,
        total=total,
        initial=initial,
        mininterval=0.2 if on_terminal else LOG_INTERVAL_SECONDS,
        maxinterval=10.0 if on_terminal else LOG_INTERVAL_SECONDS,
        ascii=not on_terminal,
    )
