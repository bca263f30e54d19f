"""Hashes of files, with a cache by size and modification time, so that unchanged files are not read again."""

import json
from collections.abc import Iterable, Mapping
from pathlib import Path

from naruto_add.runtime.files import atomic_write_bytes, content_hash

_Known = Mapping[str, tuple[str, str]]
"""What identifies a file's state, and the hash of its content, by absolute file name."""


def cached_hashes(files: Iterable[Path], cache_path: Path) -> dict[Path, str]:
    """The hash of each file's content, from `cache_path` if its size and modification time are unchanged.

    Raises OSError for a file that cannot be read.
    """
    known = _read_cache(cache_path)
    entries = {file: _entry(file, known) for file in files}
    named = {str(file.absolute()): entry for file, entry in entries.items()}
    if named.items() - known.items():
        kept = {name: entry for name, entry in known.items() if name in named or Path(name).exists()}
        atomic_write_bytes(cache_path, json.dumps({**kept, **named}, indent=1).encode())
    return {file: digest for file, (_, digest) in entries.items()}


def _entry(file: Path, known: _Known) -> tuple[str, str]:
    status = file.stat()
    state = f"{status.st_size} bytes, {status.st_mtime_ns} ns"
    before = known.get(str(file.absolute()))
    return before if before and before[0] == state else (state, content_hash(file))


def _read_cache(path: Path) -> _Known:
    """No entries if the file is missing or damaged, since it only saves time."""
    try:
        return {name: (state, digest) for name, (state, digest) in json.loads(path.read_text(encoding="utf-8")).items()}
    except (OSError, ValueError, AttributeError, TypeError):
        return {}
