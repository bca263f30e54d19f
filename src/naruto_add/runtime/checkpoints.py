"""Where checkpoints and caches are stored, and the lock that keeps two runs of one configuration apart.

They are in `.checkpoints/` of the user's repository, even when DVC runs the stage in a temporary copy of it: DVC sets
`$DVC_ROOT` to the repository.
"""

import os
import shutil
import sys
import time
from collections.abc import Generator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, is_dataclass
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from naruto_add.config import paths
from naruto_add.runtime.errors import StageError
from naruto_add.runtime.files import content_hash

MAX_WRITING_SECONDS = 3600.0
"""More than writing one cache file takes."""


def checkpoint_dir(stage: str, *, params: Sequence[Any], deps: Sequence[Path]) -> Path:
    """The folder for checkpoints and caches of exactly this configuration of a stage.

    Its name is a hash of the values in `params`, the content of `deps`, the versions in packages.yaml, and the source
    of every module of this project that the process has imported so far. A stage imports all its modules before it
    calls this function.
    """
    values = [_plain(item) for item in params]
    return _root() / stage / content_hash(stage, values, paths.PACKAGES, *_imported_sources(), *deps)


def shared_cache_dir(name: str, *modules: str) -> Path:
    """The folder for caches that several configurations share.

    Its name is a hash of the versions in packages.yaml and of the imported sources of these modules and packages, or,
    without any, of all imported sources of the project. The name of an entry must cover everything else that the entry
    depends on. What a killed process was writing there more than an hour ago is deleted: another one may write now.
    """
    folder = _root() / name / content_hash(paths.PACKAGES, *_imported_sources(*modules))
    for stale in folder.glob(".*-*"):
        with suppress(FileNotFoundError):  # another process has ended its writing
            if time.time() - stale.stat().st_mtime > MAX_WRITING_SECONDS:
                shutil.rmtree(stale, ignore_errors=True)
    return folder


def local_cache_path(name: str) -> Path:
    """The path of a cache that is valid for any code and configuration."""
    return _root() / name


@contextmanager
def exclusive(folder: Path) -> Generator[None]:
    """Hold a lock on `folder`. After success, delete the checkpoints in it (*.pt), because nothing is left to resume.

    Of the processes that `accelerate launch` starts, only the first takes the lock. Raises StageError immediately if
    another run holds it.
    """
    if os.environ.get("RANK", "0") != "0":
        yield
        return
    folder.mkdir(parents=True, exist_ok=True)
    lock = FileLock(folder / "lock")
    try:
        lock.acquire(timeout=0)
    except Timeout:
        raise StageError(
            f"{folder}: another process is training this configuration; wait for it or stop it, then run again"
        ) from None
    for stale in list(folder.rglob(".*-*")):  # left by a process that was killed while saving
        shutil.rmtree(stale, ignore_errors=True)
    try:
        yield
        for checkpoint in folder.glob("*.pt"):
            checkpoint.unlink()
    finally:
        lock.release()


def _root() -> Path:
    return Path(os.environ.get("DVC_ROOT") or Path.cwd()) / ".checkpoints"


def _imported_sources(*modules: str) -> list[Path]:
    prefixes = tuple(f"{module}." for module in modules or ("naruto_add", "stages"))
    names = (name for name in sys.modules if f"{name}.".startswith(prefixes))
    files = (getattr(sys.modules[name], "__file__", None) for name in names)
    return sorted({Path(file) for file in files if file})


def _plain(item: Any) -> Any:
    if is_dataclass(item) and not isinstance(item, type):
        return asdict(item)
    return item.model_dump() if hasattr(item, "model_dump") else item
