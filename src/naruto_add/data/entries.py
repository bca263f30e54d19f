"""What a source gives, entries and rejects, and how its files are found without leaving its folder."""

import json
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from naruto_add.data.images import Reason


@dataclass(frozen=True, kw_only=True)
class Drawing:
    """A picture that is not in a file: drawn by our own code, caption and attributes with it."""

    index: int
    seed: int


@dataclass(frozen=True, kw_only=True)
class Entry:
    """One picture and what its source says of it, none of it looked at yet."""

    name: str
    picture: Path | bytes | Drawing
    caption: object = None
    attributes: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Reject:
    """An entry that is not taken, and why."""

    name: str
    reason: Reason
    detail: str


@dataclass(frozen=True, kw_only=True)
class Source:
    """The entries of a source in its own order, some rejects already."""

    num_entries: int
    entries: Iterable[Entry | Reject]


@dataclass(frozen=True, kw_only=True)
class Walked:
    """What a folder and its subfolders hold, by names relative to it, sorted; hidden ones are left out."""

    files: list[str]
    links: list[str]
    """Linked folders, which nobody walks into."""
    unreadable: list[Reject]
    """Folders that cannot be listed."""


def walk(root: Path) -> Walked:
    """All that lies in the folder. Raises OSError where it cannot be listed itself."""
    files, links = [], []
    errors: list[OSError] = []
    for walked, folder_names, file_names in os.walk(root, onerror=errors.append):
        folder = Path(walked).relative_to(root)
        folder_names[:] = [name for name in folder_names if not name.startswith(".")]
        links += [(folder / name).as_posix() for name in folder_names if (Path(walked) / name).is_symlink()]
        files += [(folder / name).as_posix() for name in file_names if not name.startswith(".")]
    unreadable = {Path(error.filename).relative_to(root).as_posix(): error for error in errors}
    if "." in unreadable:
        raise unreadable["."]
    return Walked(
        files=sorted(files),
        links=sorted(links),
        unreadable=[
            Reject(name=name, reason="missing_file", detail=f"a folder that cannot be listed: {error.strerror}")
            for name, error in sorted(unreadable.items())
        ],
    )


def located(root: Path, file_name: str, *, name: str) -> Path | Reject:
    """The file of that name, where it lies inside `root` after all links are followed."""
    try:
        path = (root / file_name).resolve()
        if not path.is_relative_to(root.resolve()):
            return Reject(name=name, reason="path_escape", detail=f"{file_name} leads out of {root}")
        if path.is_file():
            return path
        kind = "is no regular file" if path.exists() else "does not exist"
    except (OSError, ValueError, RuntimeError) as error:  # names that no file system takes, links in a circle
        kind = f"is not found: {error}"
    return Reject(name=name, reason="missing_file", detail=f"{file_name} {kind}")


def plain_attributes(row: Mapping[str, Any], *, without: tuple[str, ...]) -> dict[str, str]:
    """The row's other plain values, as text."""
    plain = {column: row[column] for column in row if isinstance(column, str) and column not in without}
    return {
        column: value if isinstance(value, str) else json.dumps(value)
        for column, value in plain.items()
        if isinstance(value, (str, int, float))
    }
