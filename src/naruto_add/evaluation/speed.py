"""How long a picture takes and how much memory, on the machine that this runs on."""

import sys
import time
from collections.abc import Callable, Generator
from contextlib import contextmanager

import torch

MIB = 2**20


def milliseconds_of(draw: Callable[[], object]) -> float:
    """Wall-clock time of one call, until the GPU is done too."""
    _synchronize()
    start = time.perf_counter()
    draw()
    _synchronize()
    return 1000 * (time.perf_counter() - start)


@contextmanager
def peak_vram_mib() -> Generator[list[float]]:
    """Yield a list that holds, afterwards, the most GPU memory that was taken inside, beside what was held before.

    Without a GPU it stays empty.
    """
    peak: list[float] = []
    if not torch.cuda.is_available():
        yield peak
        return
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    yield peak
    peak.append((torch.cuda.max_memory_allocated() - before) / MIB)


def peak_rss_mib() -> float | None:
    """The most memory that this process has held since it began; None where the system does not tell (Windows)."""
    try:
        import resource
    except ImportError:
        return None
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / MIB if sys.platform == "darwin" else peak / 1024


def _synchronize() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()
