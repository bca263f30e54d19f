"""What a source yields, entries and rejects, and how its files are found without leaving its folder."""

import json
import os
import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePath
from typing import Any, Literal

from naruto_add.data.images import Reason

Split = Literal["train", "validation", "test"]
_MAX_SHOWN_CHARS = 120


_SPLIT_OF: dict[str, Split] = {
    **dict.fromkeys(("train", "training"), "train"),
    **dict.fromkeys(("validation", "valid", "val", "dev"), "validation"),
    **dict.fromkeys(("test", "testing", "eval"), "test"),
}


@dataclass(frozen=True, kw_only=True)
class ShinobiId:
    """Identifies a drawing that `data.shinobi.draw` makes, with its caption and attributes."""

    index: int
    seed: int


@dataclass(frozen=True, kw_only=True)
class Entry:
    """One picture and what its source says about it; neither has been checked."""

    name: str
    picture: Path | bytes | ShinobiId
    captions: object = None
    """A caption, or a list of alternatives of which the first is the one to test with."""
    attributes: dict[str, str] = field(default_factory=dict)
    split: Split | None = None
    """The split that the source gives it, if any."""


@dataclass(frozen=True, kw_only=True)
class Reject:
    """An entry that is not used, and why."""

    name: str
    reason: Reason
    detail: str


@dataclass(frozen=True, kw_only=True)
class Captioned:
    """What a folder holds: its entries, and the text files that belong to no picture, such as README.txt."""

    entries: list[Entry | Reject]
    ignored: list[str] = field(default_factory=list)


@dataclass(frozen=True, kw_only=True)
class Source:
    """The entries of a source in its own order; some may already be rejects."""

    num_entries: int
    entries: Iterable[Entry | Reject]
    ignored: Sequence[str] = ()
    """Text files that belong to no picture, such as README.txt."""


@dataclass(frozen=True, kw_only=True)
class FolderListing:
    """The contents of a folder and its subfolders: sorted names relative to it, without hidden ones."""

    files: list[str]
    links: list[str]
    """Links to folders, which are not followed."""
    unreadable: list[Reject]
    """Folders that cannot be listed."""


def list_folder(root: Path) -> FolderListing:
    """The contents of the folder and its subfolders. Raises OSError if `root` itself cannot be listed."""
    files, links = [], []
    errors: list[OSError] = []
    for current, folder_names, file_names in os.walk(root, onerror=errors.append):
        folder = Path(current).relative_to(root)
        folder_names[:] = [name for name in folder_names if not name.startswith(".")]
        links += [(folder / name).as_posix() for name in folder_names if (Path(current) / name).is_symlink()]
        files += [(folder / name).as_posix() for name in file_names if not name.startswith(".")]
    return FolderListing(files=sorted(files), links=sorted(links), unreadable=_unreadable_folders(root, errors))


def _unreadable_folders(root: Path, errors: list[OSError]) -> list[Reject]:
    by_name = {Path(error.filename).relative_to(root).as_posix(): error for error in errors}
    if "." in by_name:
        raise by_name["."]
    return [
        Reject(name=name, reason="missing_file", detail=f"this folder cannot be listed: {error.strerror}")
        for name, error in sorted(by_name.items())
    ]


def locate(root: Path, file_name: str, *, name: str) -> Path | Reject:
    """The resolved path of a file in `root`; a Reject called `name` if it is missing or, links followed, outside."""
    try:
        path = (root / file_name).resolve()
        if not path.is_relative_to(root.resolve()):
            return Reject(name=name, reason="path_escape", detail=f"{shortened(file_name)} leads out of {root}")
        if path.is_file():
            return path
        problem = "is not a regular file" if path.exists() else "does not exist"
    except (OSError, ValueError, RuntimeError) as error:  # names that the file system refuses, and circular links
        problem = f"cannot be found: {error.strerror if isinstance(error, OSError) else error}"
    return Reject(name=name, reason="missing_file", detail=f"{shortened(file_name)} {problem}")


def shortened(text: str) -> str:
    """The beginning of a text that may be of any length."""
    return text if len(text) <= _MAX_SHOWN_CHARS else text[: _MAX_SHOWN_CHARS - 3] + "..."


def folded(name: str) -> str:
    """The name without what systems and editors change in it: case, composed letters, backslashes, spaces around it."""
    return unicodedata.normalize("NFC", name.strip().replace("\\", "/")).lower()


def given_split(name: object) -> Split | None:
    """The split that a folder, a column's value or a hub split of this name stands for, if any."""
    return _SPLIT_OF.get(name.strip().lower()) if isinstance(name, str) else None


def split_of_folder(root: Path, name: str) -> Split | None:
    """The split that the innermost folder between `root` and this file with the name of a split stands for, if any."""
    path = root / name
    if PurePath(name).is_absolute():
        path, root = path.resolve(), root.resolve()
    folders = path.relative_to(root).parts[:-1] if path.is_relative_to(root) else ()
    return next((split for folder in reversed(folders) if (split := given_split(folder))), None)


def plain_attributes(row: Mapping[str, Any], *, without: tuple[str, ...]) -> dict[str, str]:
    """The row's strings, numbers and booleans as text, without the named columns."""
    values = {column: row[column] for column in row if isinstance(column, str) and column not in without}
    return {
        column: value if isinstance(value, str) else json.dumps(value)
        for column, value in values.items()
        if isinstance(value, (str, int, float))
    }
