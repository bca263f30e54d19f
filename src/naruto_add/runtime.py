"""What a run needs from its surroundings: device, precision, seeds, files written whole or not at all, progress.

The one place that reads the environment and the working directory.
"""

import hashlib
import json
import math
import os
import shutil
import sys
import tempfile
from collections.abc import Callable, Generator, Iterable, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal, TypeVar

import numpy as np
import torch
from accelerate import Accelerator
from filelock import FileLock, Timeout
from tqdm import tqdm

T = TypeVar("T")
Precision = Literal["fp32", "bf16", "fp16"]

QUIET_SECONDS = 30.0
SIGNIFICANT_DIGITS = 6
DTYPES: dict[str, torch.dtype] = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


class StageError(RuntimeError):
    """A stage that cannot go on; the message is for the user and names the remedy."""


def make_accelerator(precision: Precision) -> Accelerator:
    """An Accelerator on the GPU where there is one; half precisions are for GPUs, a CPU computes in fp32."""
    on_gpu = torch.cuda.is_available()
    mixed = {"fp32": "no", "bf16": "bf16", "fp16": "fp16"}[precision] if on_gpu else "no"
    return Accelerator(mixed_precision=mixed, cpu=not on_gpu)


def default_device() -> torch.device:
    """The GPU where there is one."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def frozen_dtype(precision: Precision) -> torch.dtype:
    """The dtype of networks that are not trained: the precision asked for on a GPU, fp32 on a CPU."""
    return DTYPES[precision] if torch.cuda.is_available() else torch.float32


def step_generator(seed: int, step: int, *stream: int) -> torch.Generator:
    """A CPU generator that depends on its arguments alone, so that a resumed run draws what an uninterrupted one does."""
    entropy = np.random.SeedSequence((seed, step, *stream)).generate_state(1, np.uint64)[0]
    return torch.Generator().manual_seed(int(entropy >> np.uint64(1)))


def batch_indices(num_items: int, batch_size: int, *, seed: int, step: int) -> list[int]:
    """The items of batch `step`: every epoch is a new permutation, and batches run across epochs' ends."""
    first = step * batch_size
    positions = range(first, first + batch_size)
    epochs = {position // num_items for position in positions}
    order = {epoch: np.random.default_rng((seed, epoch)).permutation(num_items) for epoch in epochs}
    return [int(order[position // num_items][position % num_items]) for position in positions]


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


@contextmanager
def new_folder(path: Path) -> Generator[Path]:
    """Yield a temporary sibling that becomes `path` on success, replacing what was there, and vanishes on error."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = Path(tempfile.mkdtemp(prefix=f".{path.name}-", dir=path.parent))
    try:
        yield partial
        partial.chmod(0o755)
        if path.exists():
            shutil.rmtree(path)
        partial.rename(path)
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        raise


@contextmanager
def new_file(path: Path) -> Generator[Path]:
    """Yield a temporary sibling with the same suffix that becomes `path` on success and vanishes on error."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{path.stem}-", dir=path.parent) as folder:
        partial = Path(folder) / path.name
        yield partial
        partial.replace(path)


def atomic_write_bytes(path: Path, data: bytes) -> None:
    """Write the whole file or nothing."""
    with new_file(path) as partial:
        partial.write_bytes(data)


def write_json(path: Path, values: Mapping[str, float | int | str]) -> None:
    """Write flat JSON with sorted keys and at most six significant digits. Raises ValueError for NaN and infinity."""
    rounded = {key: _rounded(key, values[key]) for key in sorted(values)}
    atomic_write_bytes(path, (json.dumps(rounded, indent=2, allow_nan=False) + "\n").encode())


def read_json(path: Path) -> dict[str, Any]:
    """What `write_json` wrote."""
    values: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return values


def _rounded(key: str, value: float | int | str) -> float | int | str:
    if not isinstance(value, float):
        return value
    if not math.isfinite(value):
        raise ValueError(f"{key}: {value} is not a finite number")
    return float(f"{value:.{SIGNIFICANT_DIGITS}g}")


def content_hash(*parts: Any) -> str:
    """A short hash of JSON values, and of files and folders (given as Path) by their content."""
    digest = hashlib.blake2b(digest_size=12)
    for part in parts:
        if isinstance(part, Path):
            _hash_path(digest, part)
        else:
            digest.update(json.dumps(part, sort_keys=True, default=str).encode() + b"\0")
    return digest.hexdigest()


def _hash_path(digest: "hashlib.blake2b", path: Path) -> None:
    for file in _files(path):
        digest.update(str(file.relative_to(path)).encode() + b"\0")
        with file.open("rb") as stream:
            while chunk := stream.read(1 << 20):
                digest.update(chunk)


def _files(path: Path) -> list[Path]:
    if path.is_file():
        return [path]
    if not path.exists():
        raise StageError(f"{path}: no such file or folder; run the stage that makes it (`dvc repro`)")
    return sorted(item for item in path.rglob("*") if item.is_file() and "__pycache__" not in item.parts)


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
    import ctypes
    import signal

    pr_set_pdeathsig = 1
    ctypes.CDLL(None).prctl(pr_set_pdeathsig, signal.SIGTERM)
