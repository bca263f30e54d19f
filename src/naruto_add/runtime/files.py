"""Files and folders that are written completely or not at all, flat JSON, and content hashes."""

import hashlib
import json
import math
import shutil
import tempfile
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from naruto_add.runtime.disk import named_disk_errors
from naruto_add.runtime.errors import StageError

SIGNIFICANT_DIGITS = 6


@contextmanager
def new_folder(path: Path) -> Generator[Path]:
    """Yield a temporary sibling folder that replaces `path` on success and is deleted on error."""
    with named_disk_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        for stale in path.parent.glob(f".{path.name}-*"):  # left by a process that was killed
            shutil.rmtree(stale, ignore_errors=True)
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
    """Yield a temporary file with the same name that replaces `path` on success and is deleted on error."""
    with named_disk_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=f".{path.stem}-", dir=path.parent) as folder:
            partial = Path(folder) / path.name
            yield partial
            partial.replace(path)


def atomic_write_bytes(path: Path, data: bytes) -> None:
    """Write the complete file or nothing."""
    with new_file(path) as partial:
        partial.write_bytes(data)


def link_or_copy(source: Path, target: Path) -> None:
    """Make `target` a hard link to `source`, which needs no disk, or a copy where the file system has no links.

    Only for files that are replaced and never changed, as all of this project's are.
    """
    with new_file(target) as partial:
        try:
            partial.hardlink_to(source)
        except OSError:
            shutil.copyfile(source, partial)


def write_json(path: Path, values: Mapping[str, float | int | str], *, in_order: bool = False) -> None:
    """Write flat JSON with at most six significant digits, sorted by key, or with `in_order` in the order of `values`.

    Raises ValueError for NaN and infinity.
    """
    rounded = {key: _rounded(key, values[key]) for key in (values if in_order else sorted(values))}
    atomic_write_bytes(path, (json.dumps(rounded, indent=2, allow_nan=False) + "\n").encode())


def read_json(path: Path) -> dict[str, Any]:
    """The content of a JSON file that a stage wrote, with an object at its top.

    Raises StageError if the file is damaged, FileNotFoundError if it is missing.
    """
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:  # also text that is not UTF-8
        raise _damaged(path, str(error)) from error
    if not isinstance(values, dict):
        raise _damaged(path, "it has no object at its top")
    return values


def _damaged(path: Path, problem: str) -> StageError:
    return StageError(f"{path}: this file is damaged ({problem}); delete it and run `dvc repro`, which makes it again")


def _rounded(key: str, value: float | int | str) -> float | int | str:
    if not isinstance(value, float):
        return value
    if not math.isfinite(value):
        raise ValueError(f"{key}: {value} is not a finite number")
    return float(f"{value:.{SIGNIFICANT_DIGITS}g}")


def file_sha256(path: Path) -> str:
    """The SHA-256 of a file's bytes, whatever its name."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def content_hash(*parts: Any) -> str:
    """A short hash of its arguments: JSON values, and Paths of files and folders by content and relative names.

    Raises FileNotFoundError for a path that does not exist.
    """
    digest = hashlib.blake2b(digest_size=12)
    for part in parts:
        if isinstance(part, Path):
            _hash_path(digest, part)
        else:
            digest.update(json.dumps(part, sort_keys=True, default=str).encode() + b"\0")
    return digest.hexdigest()


def _hash_path(digest: "hashlib.blake2b", path: Path) -> None:
    for file in _files(path):
        name = file.relative_to(path).as_posix() if file != path else file.name
        digest.update(name.encode("utf-8", "surrogateescape") + b"\0")  # a name need not be UTF-8
        with file.open("rb") as stream:
            while chunk := stream.read(1 << 20):
                digest.update(chunk)


def _files(path: Path) -> list[Path]:
    if path.is_file():
        return [path]
    if not path.exists():
        raise FileNotFoundError(f"{path}: no such file or folder; run the stage that makes it (`dvc repro`)")
    return sorted(item for item in path.rglob("*") if item.is_file() and "__pycache__" not in item.parts)
