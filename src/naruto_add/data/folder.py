"""A folder of pictures, with a table that names them or a text beside each."""

from collections import defaultdict
from collections.abc import Mapping
from pathlib import Path, PurePosixPath
from typing import Any

from naruto_add.data.entries import Entry, Reject, Source, Walked, located, plain_attributes, walk
from naruto_add.data.images import picture_suffixes
from naruto_add.data.tables import Row, read_table
from naruto_add.params import Ingest
from naruto_add.runtime import StageError


def open_folder(params: Ingest) -> Source:
    """The folder's entries. Raises StageError, or OSError, where it cannot be read as a whole."""
    root = Path(params.path)
    if not root.is_dir():
        raise StageError(f"ingest.path: {params.path!r} is not a folder; name one that holds captioned pictures")
    tables = [root / name for name in ("metadata.jsonl", "metadata.csv") if (root / name).is_file()]
    outside = [table for table in tables if isinstance(located(root, table.name, name=table.name), Reject)]
    if outside:
        raise StageError(f"ingest.path: {outside[0]} leads out of {params.path!r}; put a copy of the file there")
    if len(tables) > 1:
        raise StageError(f"ingest.path: {params.path!r} holds both metadata.jsonl and metadata.csv; keep one")
    entries = _listed(root, tables[0], params) if tables else _all_beside(root, params)
    return Source(num_entries=len(entries), entries=entries)


# --- texts beside pictures ---


def _all_beside(root: Path, params: Ingest) -> list[Entry | Reject]:
    """The pictures with the texts beside them, then all that keeps a picture or a text from being one of them."""
    walked = walk(root)
    entries = [_beside(root, name) for name in _pictures(walked)]
    rejects = [*_without_picture(walked), *_escapes(root, walked), *walked.unreadable]
    if not any(isinstance(entry, Entry) for entry in entries):
        first = next((f"; {each.name}: {each.detail}" for each in rejects), "")
        raise StageError(
            f"ingest.path: {params.path!r} has no captioned pictures; it needs metadata.jsonl or metadata.csv with the "
            f"columns file_name and {params.caption_column}, or a text beside each picture (0001.png, 0001.txt){first}"
        )
    return [*entries, *rejects]


def _pictures(walked: Walked) -> list[str]:
    """By their endings."""
    suffixes = picture_suffixes()
    return [name for name in walked.files if _suffix(name) in suffixes]


def _suffix(name: str) -> str:
    return PurePosixPath(name).suffix.lower()


def _beside(root: Path, name: str) -> Entry | Reject:
    """The picture with the caption from the text file beside it."""
    picture = located(root, name, name=name)
    if isinstance(picture, Reject):
        return picture
    caption_name = str(Path(name).with_suffix(".txt"))
    text = located(root, caption_name, name=name)
    if isinstance(text, Reject):
        lost = text.reason == "missing_file"
        return Reject(name=name, reason="no_caption", detail=f"no {caption_name} beside it") if lost else text
    try:
        return Entry(name=name, picture=picture, caption=text.read_text("utf-8-sig"))
    except (UnicodeDecodeError, OSError) as error:
        return Reject(name=name, reason="no_caption", detail=f"{caption_name}: {error}")


def _without_picture(walked: Walked) -> list[Reject]:
    """The texts beside no picture; where something else bears the same name, that is what cannot be read."""
    named: dict[PurePosixPath, list[str]] = defaultdict(list)
    for name in walked.files:
        named[PurePosixPath(name).with_suffix("")].append(name)
    pictures, rejects = set(_pictures(walked)), []
    for names in named.values():
        texts = [name for name in names if _suffix(name) == ".txt"]
        if texts and not pictures.intersection(names):
            others = [name for name in names if name not in texts]
            rejects += [_unsupported(name) for name in others] or [_lost(name) for name in texts]
    return rejects


def _unsupported(name: str) -> Reject:
    ending = PurePosixPath(name).suffix
    detail = f"{ending} is no ending of a picture that is read" if ending else "its name has no ending"
    return Reject(name=name, reason="unsupported", detail=f"{detail}; save it as PNG")


def _lost(name: str) -> Reject:
    return Reject(name=name, reason="missing_file", detail="no picture beside it")


def _escapes(root: Path, walked: Walked) -> list[Reject]:
    """The linked folders that lead elsewhere."""
    found = [located(root, name, name=name) for name in walked.links]
    return [each for each in found if isinstance(each, Reject) and each.reason == "path_escape"]


# --- a table ---


def _listed(root: Path, file: Path, params: Ingest) -> list[Entry | Reject]:
    """The table's rows, then the pictures that no row names, and the folders that may hold more."""
    table, walked = read_table(file), walk(root)
    for column, key in (("file_name", "ingest.path"), (params.caption_column, "ingest.caption_column")):
        if column not in table.columns:
            names = ", ".join(table.columns) or "none"
            raise StageError(f"{key}: {file} has no column {column!r}; it has {names}")
    entries = [row if isinstance(row, Reject) else _row_entry(root, row, params) for row in table.rows]
    file_names = [row.values.get("file_name") for row in table.rows if isinstance(row, Row)]
    named = {Path(name).as_posix() for name in file_names if isinstance(name, str)}
    unlisted = [name for name in _pictures(walked) if name not in named]
    detail = f"no row of {file.name} names it"
    rejects = [Reject(name=name, reason="no_caption", detail=detail) for name in unlisted]
    return [*entries, *rejects, *walked.unreadable]


def _row_entry(root: Path, row: Row, params: Ingest) -> Entry | Reject:
    file_name = row.values.get("file_name")
    if not isinstance(file_name, str) or not file_name:
        return Reject(name=row.place, reason="bad_row", detail=f"no file_name in {_shortened(row.values)}")
    picture = located(root, file_name, name=file_name)
    if isinstance(picture, Reject):
        return picture
    attributes = plain_attributes(row.values, without=("file_name", params.caption_column))
    caption = row.values.get(params.caption_column)
    return Entry(name=file_name, picture=picture, caption=caption, attributes=attributes)


def _shortened(row: Mapping[str, Any]) -> str:
    text = repr(dict(row))
    return text if len(text) <= 120 else text[:117] + "..."
