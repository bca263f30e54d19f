"""Progress of long loops: a bar on a terminal, a few lines in a log."""

import sys
from collections.abc import Iterable
from typing import Any, TypeVar
from weakref import WeakSet

from tqdm import tqdm

T = TypeVar("T")

LOG_INTERVAL_SECONDS = 30.0
_bars: "WeakSet[tqdm[Any]]" = WeakSet()


def progress(iterable: Iterable[T], *, desc: str, total: int | None = None, initial: int = 0) -> "tqdm[T]":
    """Iterate with a progress bar on a terminal, or with at most one line per half minute in a log."""
    on_terminal = sys.stderr.isatty()
    bar = tqdm(
        iterable,
        desc=desc,
        total=total,
        initial=initial,
        mininterval=0.2 if on_terminal else LOG_INTERVAL_SECONDS,
        maxinterval=10.0 if on_terminal else LOG_INTERVAL_SECONDS,
        ascii=not on_terminal,
    )
    _bars.add(bar)
    return bar


def close_bars() -> None:
    """End the line of every unfinished bar, so that a message is a line of its own and the last one."""
    for bar in list(_bars):
        bar.close()
