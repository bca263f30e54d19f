"""Captions in the tables of a folder: metadata.jsonl or metadata.csv, in any case, at any depth."""

import re
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path, PurePosixPath
from typing import Any

from naruto_add.config.schema import Ingest
from naruto_add.data.captions import clean_captions
from naruto_add.data.entries import Entry, FolderListing, Reject, given_split, locate, plain_attributes, split_of_folder
from naruto_add.data.formats import is_unread_picture, picture_suffixes, unread_detail
from naruto_add.data.tables import Row, Table, read_table
from naruto_add.runtime.errors import StageError, shown

_NAMES = ("metadata.jsonl", "metadata.csv")
_MAX_SHOWN_CHARS = 120


def find_tables(root: Path, listing: FolderListing, params: Ingest) -> list[str]:
    """The tables at any depth. Raises StageError for a link out of the folder, and for two tables in one folder."""
    by_folder: dict[PurePosixPath, list[str]] = defaultdict(list)
    for name in listing.files:
        if is_table(name):
            found = locate(root, name, name=name)
            if isinstance(found, Reject) and found.reason == "path_escape":
                raise StageError(
                    f"ingest.path: {shown(root / name)} leads out of {params.path!r}; replace it by a copy of the file"
                )
            if isinstance(found, Path):
                by_folder[PurePosixPath(name).parent].append(name)
    for folder, names in by_folder.items():
        if len(names) > 1:
            names.sort(key=str.lower, reverse=True)
            raise StageError(
                f"ingest.path: {str(root / folder)!r} holds both {PurePosixPath(names[0]).name} and "
                f"{PurePosixPath(names[1]).name}; keep one of them"
            )
    return [name for names in by_folder.values() for name in names]


def is_table(name: str) -> bool:
    """Whether the file has the name of a table, in any case."""
    return PurePosixPath(name).name.lower() in _NAMES


def table_entries(root: Path, names: Sequence[str], listing: FolderListing, params: Ingest) -> list[Entry | Reject]:
    """The pictures that rows name, then rejects for pictures that none names and for folders that cannot be listed.

    Several rows of one picture are alternative captions, as in data sets with a row for each caption.
    """
    entries: list[Entry | Reject] = []
    mentioned: set[str] = set()
    similar: dict[str, list[str]] = defaultdict(list)
    for name in listing.files:
        similar[name.lower()].append(name)
    for name in names:
        table = read_table(root / name, name=name)
        _check_columns(root / name, table, params)
        folder = PurePosixPath(name).parent
        rows = [
            row if isinstance(row, Reject) else _row_entry(root, folder, row, similar, params) for row in table.rows
        ]
        entries += rows
        mentioned |= {(folder / each.name).as_posix() for each in rows} | {each.name for each in rows}
        mentioned |= {(folder / piece).as_posix() for piece in table.damaged}
    taken = {entry.picture for entry in entries if isinstance(entry, Entry)}
    unnamed = [name for name in listing.files if name not in mentioned and _is_picture(name)]
    where = PurePosixPath(names[0]).name if len(names) == 1 else f"the {len(names)} tables"
    rejects = [_unnamed(name, where) for name in unnamed if locate(root, name, name=name) not in taken]
    return [*_one_for_each_picture(entries), *rejects, *listing.unreadable]


def _one_for_each_picture(entries: Sequence[Entry | Reject]) -> list[Entry | Reject]:
    """The entries without those that only add captions to an earlier one of the same picture, which then has them.

    Rows without a new caption stay: they are rejected later, as copies or because they have none.
    """
    kept: list[Entry | Reject] = []
    first_of: dict[Any, int] = {}
    for entry in entries:
        captions = clean_captions(entry.captions) if isinstance(entry, Entry) else ()
        if isinstance(entry, Reject) or not captions:
            kept.append(entry)
        elif entry.picture not in first_of:
            first_of[entry.picture] = len(kept)
            kept.append(entry)
        else:
            index = first_of[entry.picture]
            first = kept[index]
            assert isinstance(first, Entry), "only entries are in first_of"
            earlier = clean_captions(first.captions)
            if set(captions) <= set(earlier):
                kept.append(entry)
            else:
                kept[index] = replace(first, captions=[*earlier, *captions])
    return kept


def _check_columns(file: Path, table: Table, params: Ingest) -> None:
    for column, key in (("file_name", "ingest.path"), (params.caption_column, "ingest.caption_column")):
        if column not in table.columns:
            names = ", ".join(map(shown, table.columns)) or "none"
            is_other = len(table.columns) == 1 and re.search(r"[;\t|]", table.columns[0])
            hint = "; separate columns by commas" if is_other else ""
            raise StageError(f"{key}: {shown(file)} has no column {column!r}; its columns: {names}{hint}")


def _row_entry(
    root: Path, folder: PurePosixPath, row: Row, similar: Mapping[str, Sequence[str]], params: Ingest
) -> Entry | Reject:
    """`similar` are the files of the folder by their names in lower case.

    A row may name its file as Windows does: with backslashes, and in another case if only one file has that name then.
    """
    file_name = row.values.get("file_name")
    if not isinstance(file_name, str) or not file_name:
        return Reject(name=row.place, reason="bad_row", detail=f"no file_name in {_shortened(row.values)}")
    name = file_name if folder == PurePosixPath() else (folder / file_name).as_posix()
    picture = locate(root, name, name=name)
    if isinstance(picture, Reject) and picture.reason == "missing_file":
        names = similar.get(PurePosixPath(name.replace("\\", "/")).as_posix().lower(), ())
        if len(names) == 1:
            (name,) = names
            picture = locate(root, name, name=name)
    if isinstance(picture, Reject):
        return picture
    if is_unread_picture(name):
        return Reject(name=name, reason="unsupported", detail=unread_detail(name))
    return Entry(
        name=name,
        picture=picture,
        captions=row.values.get(params.caption_column),
        attributes=plain_attributes(row.values, without=("file_name", params.caption_column)),
        split=given_split(row.values.get("split")) or split_of_folder(root, name),
    )


def _is_picture(name: str) -> bool:
    return PurePosixPath(name).suffix.lower() in picture_suffixes() or is_unread_picture(name)


def _unnamed(name: str, where: str) -> Reject:
    if is_unread_picture(name):
        return Reject(name=name, reason="unsupported", detail=unread_detail(name))
    return Reject(name=name, reason="no_caption", detail=f"no row of {where} names it")


def _shortened(row: Mapping[str, Any]) -> str:
    text = repr(dict(row))
    return text if len(text) <= _MAX_SHOWN_CHARS else text[: _MAX_SHOWN_CHARS - 3] + "..."
