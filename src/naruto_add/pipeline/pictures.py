"""The manifest of the pictures: names and hashes of the files in `ingest.path`, without opening pipes or devices.

What is not a file is named, in the manifest and on the terminal, and not read. `ingest` rejects it if it has the name
of a picture or of a parquet file.
"""

import os
import stat
import sys
from collections.abc import Iterator
from pathlib import Path

from naruto_add.config import paths
from naruto_add.config.schema import Ingest
from naruto_add.pipeline.hashes import cached_hashes
from naruto_add.runtime.errors import StageError, shown
from naruto_add.runtime.files import write_json

_MAX_NAMED = 20
_KINDS = {
    stat.S_IFIFO: "a named pipe",
    stat.S_IFSOCK: "a socket",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
    stat.S_IFDIR: "a folder",
}


def write_picture_manifest(ingest: Ingest, *, manifest_path: Path, cache_path: Path) -> None:
    """Write the hash of each file in `ingest.path` by its relative name, or why it is not read.

    For `shinobi` and `hub`, whose pictures the parameters identify, the manifest contains the source's name only.
    Hidden files are left out. Hashes are taken from `cache_path` for files of unchanged size and modification time.

    Raises StageError as `check_source` does, and if a file or the folder itself cannot be read.
    """
    if ingest.source in ("shinobi", "hub"):
        write_json(manifest_path, {"source": ingest.source})
        return
    check_source(ingest)
    root = Path(ingest.path)
    files, others = _look(root) if root.is_dir() else ({root.name: root}, {})
    readable = {name: file for name, file in files.items() if os.access(file, os.R_OK)}
    others |= dict.fromkeys(files.keys() - readable.keys(), "a file without read permission")
    _name_others(ingest.path, others)
    try:
        hashes = cached_hashes(readable.values(), cache_path)
    except OSError as error:  # deleted during the look, or a damaged disk
        raise StageError(f"ingest.path: {ingest.path!r} cannot be read: {error}; repair it, then run again") from error
    hashed = {name: hashes[file] for name, file in readable.items()}
    write_json(manifest_path, {**hashed, **{name: f"not read: {kind}" for name, kind in others.items()}})


def check_source(ingest: Ingest) -> None:
    """Raises StageError if `ingest.path` is needed and is missing, neither file nor folder, or written by `ingest`."""
    if ingest.source in ("shinobi", "hub"):
        return
    root = Path(ingest.path)
    key = f"ingest.path: {str(root)!r}"
    try:
        mode = root.stat().st_mode
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise StageError(
            f"{key} cannot be found ({reason}); name an existing folder; temporary experiments see only files that Git "
            "tracks: give other folders by absolute path"
        ) from error
    if not (stat.S_ISREG(mode) or stat.S_ISDIR(mode)):
        raise StageError(f"{key} is {_kind(mode)}; name a folder, or a parquet file")
    ours, theirs = paths.DATASET.resolve(), root.resolve()
    if ours.is_relative_to(theirs) or theirs.is_relative_to(ours):
        raise StageError(f"{key} overlaps with {paths.DATASET}, which this pipeline writes; name a folder of its own")


def _look(root: Path) -> tuple[dict[str, Path], dict[str, str]]:
    """The regular files that are in the folder, links followed, and what everything else is, by relative name."""
    files: dict[str, Path] = {}
    others: dict[str, str] = {}
    inside = root.resolve()
    for path in _visible(root, others):
        name = path.relative_to(root).as_posix()
        try:
            mode = path.stat().st_mode
        except OSError as error:  # also a circle of links
            others[name] = f"a broken link ({error.strerror})" if path.is_symlink() else f"lost ({error.strerror})"
            continue
        if not stat.S_ISREG(mode):
            others[name] = f"a link to {_kind(mode)}" if path.is_symlink() else _kind(mode)
        elif path.is_symlink() and not path.resolve().is_relative_to(inside):
            others[name] = "a link out of the folder"
        else:
            files[name] = path
    return files, others


def _visible(root: Path, others: dict[str, str]) -> Iterator[Path]:
    """Everything but folders, in a fixed order, without hidden names; links to folders are not followed."""

    def note(error: OSError) -> None:
        if Path(error.filename) == root:
            raise StageError(f"ingest.path: {str(root)!r} cannot be listed ({error.strerror})") from error
        others[Path(error.filename).relative_to(root).as_posix()] = f"a folder that cannot be listed ({error.strerror})"

    for current, folder_names, file_names in os.walk(root, onerror=note):
        folder_names[:] = sorted(name for name in folder_names if not name.startswith("."))
        links = [name for name in folder_names if (Path(current) / name).is_symlink()]
        yield from (Path(current) / name for name in sorted(file_names + links) if not name.startswith("."))


def _kind(mode: int) -> str:
    return _KINDS.get(stat.S_IFMT(mode), "something else")


def _name_others(path: str, others: dict[str, str]) -> None:
    for name, kind in sorted(others.items())[:_MAX_NAMED]:
        print(f"note: ingest.path: {shown(Path(path) / name)} is not read, because it is {kind}", file=sys.stderr)
    if len(others) > _MAX_NAMED:
        print(
            f"note: ingest.path: {len(others) - _MAX_NAMED} further entries are not read, because they are not files",
            file=sys.stderr,
        )
