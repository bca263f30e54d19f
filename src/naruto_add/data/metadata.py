"""Captions in the tables of a folder: metadata.jsonl or metadata.csv, in any case, at any depth."""

import re
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path, PurePosixPath
from typing import Any

from naruto_add.config.schema import Ingest
from naruto_add.data.captions import clean_captions
from naruto_add.data.entries import (
    Entry,
    FolderListing,
    Reject,
    folded,
    given_split,
    locate,
    plain_attributes,
    shortened,
    split_of_folder,
)
from naruto_add.data.formats import is_unread_picture, picture_suffixes, unread_detail
from naruto_add.data.tables import Row, Table, read_table
from naruto_add.runtime.errors import StageError, shown

_NAMES = ("metadata.jsonl", "metadata.csv")


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
        similar[folded(name)].append(name)
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
    captions_of: dict[Any, dict[str, None]] = {}
    first_of: dict[Any, int] = {}
    for entry in entries:
        captions = clean_captions(entry.captions) if isinstance(entry, Entry) else ()
        if isinstance(entry, Reject) or not captions:
            kept.append(entry)
        elif entry.picture not in first_of:
            first_of[entry.picture] = len(kept)
            captions_of[entry.picture] = dict.fromkeys(captions)
            kept.append(entry)
        elif captions_of[entry.picture].keys() >= set(captions):
            kept.append(entry)
        else:
            captions_of[entry.picture].update(dict.fromkeys(captions))
    for picture, index in first_of.items():
        first = kept[index]
        assert isinstance(first, Entry), "only entries are in first_of"
        if len(captions_of[picture]) > len(clean_captions(first.captions)):
            kept[index] = replace(first, captions=list(captions_of[picture]))
    return kept


def _check_columns(file: Path, table: Table, params: Ingest) -> None:
    if not any(isinstance(row, Row) for row in table.rows) and not table.columns:
        bad = (f"{shown(row.name)}: {row.detail}" for row in table.rows if isinstance(row, Reject))
        raise StageError(
            f"ingest.path: {shown(file)} has no row that can be read ({next(bad, 'the file is empty')}); write an "
            "object for each picture on a line"
        )
    for column, key in (("file_name", "ingest.path"), (params.caption_column, "ingest.caption_column")):
        if column not in table.columns:
            names = ", ".join(map(shown, table.columns)) or "none"
            is_other = len(table.columns) == 1 and re.search(r"[;\t|]", table.columns[0])
            hint = "; separate columns by commas" if is_other else ""
            raise StageError(f"{key}: {shown(file)} has no column {column!r}; its columns: {names}{hint}")


def _row_entry(
    root: Path, folder: PurePosixPath, row: Row, similar: Mapping[str, Sequence[str]], params: Ingest
) -> Entry | Reject:
    """`similar` are the files of the folder by their folded names.

    A row may name its file as another system or editor writes it, if only one file has that name then.
    """
    file_name = row.values.get("file_name")
    if not isinstance(file_name, str) or not file_name:
        return Reject(name=row.place, reason="bad_row", detail=f"no file_name in {shortened(repr(row.values))}")
    name = file_name if folder == PurePosixPath() else (folder / file_name).as_posix()
    picture = locate(root, name, name=name)
    if isinstance(picture, Reject) and picture.reason == "missing_file":
        names = similar.get(PurePosixPath(folded(name)).as_posix(), ())
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
