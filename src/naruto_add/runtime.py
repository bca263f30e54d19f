"""How a stage runs: progress, locks, checkpoint folders, and errors that become one message.

The one place that reads the environment and the working directory.
"""

import ctypes
import os
import signal
import sys
from collections.abc import Callable, Generator, Iterable, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

from filelock import FileLock, Timeout
from tqdm import tqdm

from naruto_add.files import content_hash

T = TypeVar("T")

QUIET_SECONDS = 30.0


class StageError(RuntimeError):
    """A stage that cannot go on; the message is for the user and names the remedy."""


def progress(iterable: Iterable[T], *, desc: str, total: int | None = None, initial: int = 0) -> "tqdm[T]":
    """A bar with an ETA on a terminal; in a log, a line every half minute at most."""
    on_terminal = sys.stderr.isatty()
    return tqdm(
        iterable,
        desc=desc,
        total=total,
        initial=initial,
        mininterval=0.2 if on_terminal else QUIET_SECONDS,
        maxinterval=10.0 if on_terminal else QUIET_SECONDS,
        ascii=not on_terminal,
    )


def checkpoint_dir(stage: str, *, params: Sequence[Any], deps: Sequence[Path]) -> Path:
    """The ignored folder where a stage keeps checkpoints and caches of exactly this configuration.

    It lies under the user's repository even when DVC runs the stage in a temporary copy ($DVC_ROOT names it).
    """
    key = content_hash(stage, [_plain(item) for item in params], Path(__file__).parent, *deps)
    return _checkpoints() / stage / key


def evaluation_cache_dir() -> Path:
    """Where evaluation keeps drawn pictures and their features; its entries name what they depend on themselves."""
    return _checkpoints() / "evaluate"


def _checkpoints() -> Path:
    return Path(os.environ.get("DVC_ROOT") or Path.cwd()) / ".checkpoints"


def _plain(item: Any) -> Any:
    return item.model_dump() if hasattr(item, "model_dump") else item


@contextmanager
def exclusive(folder: Path) -> Generator[None]:
    """Hold `folder` for this process. Raises StageError at once where another process holds it."""
    folder.mkdir(parents=True, exist_ok=True)
    lock = FileLock(folder / "lock")
    try:
        lock.acquire(timeout=0)
    except Timeout:
        raise StageError(
            f"{folder}: another process trains this very configuration; wait for it, or stop it, and run again"
        ) from None
    try:
        yield
    finally:
        lock.release()


def run_stage(stage: Callable[[], None]) -> None:
    """Run a stage's body: user errors become one message, Ctrl-C exits non-zero, a dying parent takes us with it."""
    _die_with_parent()
    try:
        stage()
    except (StageError, ValueError, FileNotFoundError) as error:
        if os.environ.get("NARUTO_ADD_TRACEBACK"):
            raise
        sys.exit(f"error: {error}")
    except KeyboardInterrupt:
        sys.exit("interrupted: what was done is saved; the next `dvc repro` goes on from there")


def _die_with_parent() -> None:
    """Killing dvc alone must not leave its training child running beside the next one (Linux only)."""
    if sys.platform != "linux":
        return
    pr_set_pdeathsig = 1
    ctypes.CDLL(None).prctl(pr_set_pdeathsig, signal.SIGTERM)
