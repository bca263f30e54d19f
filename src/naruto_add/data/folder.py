"""A folder of pictures whose captions are in a table or in a text file beside each picture."""

from collections import defaultdict
from collections.abc import Mapping
from pathlib import Path, PurePosixPath
from typing import Any

from naruto_add.config.schema import Ingest
from naruto_add.data.entries import Entry, FolderListing, Reject, Source, list_folder, locate, plain_attributes
from naruto_add.data.images import picture_suffixes
from naruto_add.data.tables import Row, read_table
from naruto_add.runtime.errors import StageError

_MAX_SHOWN_CHARS = 120


def open_folder(params: Ingest) -> Source:
    """The folder's entries. Raises StageError or OSError if the folder as a whole cannot be used."""
    root = Path(params.path)
    if not root.is_dir():
        raise StageError(f"ingest.path: {params.path!r} is not a folder; name one that holds captioned pictures")
    table = _table_file(root, params)
    entries = _table_entries(root, table, params) if table else _text_file_entries(root, params)
    return Source(num_entries=len(entries), entries=entries)


def _table_file(root: Path, params: Ingest) -> Path | None:
    tables = [root / name for name in ("metadata.jsonl", "metadata.csv") if (root / name).is_file()]
    outside = [table for table in tables if isinstance(locate(root, table.name, name=table.name), Reject)]
    if outside:
        raise StageError(f"ingest.path: {outside[0]} leads out of {params.path!r}; replace it by a copy of the file")
    if len(tables) > 1:
        raise StageError(f"ingest.path: {params.path!r} holds both metadata.jsonl and metadata.csv; keep one of them")
    return tables[0] if tables else None


# --- captions in text files ---


def _text_file_entries(root: Path, params: Ingest) -> list[Entry | Reject]:
    """The pictures with the captions from their text files, then rejects for text files without a picture and links."""
    listing = list_folder(root)
    entries = [_text_file_entry(root, name) for name in _pictures(listing)]
    rejects = [*_texts_without_picture(listing), *_links_out(root, listing), *listing.unreadable]
    if not any(isinstance(entry, Entry) for entry in entries):
        first = next((f"; {each.name}: {each.detail}" for each in rejects), "")
        raise StageError(
            f"ingest.path: {params.path!r} has no captioned pictures; add metadata.jsonl or metadata.csv with the "
            f"columns file_name and {params.caption_column}, or a text file beside each picture (0001.png, "
            f"0001.txt){first}"
        )
    return [*entries, *rejects]


def _pictures(listing: FolderListing) -> list[str]:
    """The files that are pictures by their endings."""
    suffixes = picture_suffixes()
    return [name for name in listing.files if _suffix(name) in suffixes]


def _suffix(name: str) -> str:
    return PurePosixPath(name).suffix.lower()


def _text_file_entry(root: Path, name: str) -> Entry | Reject:
    """The picture with the caption from the .txt file of the same name."""
    picture = locate(root, name, name=name)
    if isinstance(picture, Reject):
        return picture
    text_name = str(Path(name).with_suffix(".txt"))
    text = locate(root, text_name, name=name)
    if isinstance(text, Reject):
        is_missing = text.reason == "missing_file"
        return Reject(name=name, reason="no_caption", detail=f"{text_name} is missing") if is_missing else text
    try:
        return Entry(name=name, picture=picture, caption=text.read_text("utf-8-sig"))
    except (UnicodeDecodeError, OSError) as error:
        return Reject(name=name, reason="no_caption", detail=f"{text_name} cannot be read: {error}")


def _texts_without_picture(listing: FolderListing) -> list[Reject]:
    """Rejects for text files without a picture; other files of the same name are named in their place, if any."""
    names_of: dict[PurePosixPath, list[str]] = defaultdict(list)
    for name in listing.files:
        names_of[PurePosixPath(name).with_suffix("")].append(name)
    pictures, rejects = set(_pictures(listing)), []
    for names in names_of.values():
        texts = [name for name in names if _suffix(name) == ".txt"]
        if texts and not pictures.intersection(names):
            others = [name for name in names if name not in texts]
            rejects += [_unsupported(name) for name in others] or [_without_picture(name) for name in texts]
    return rejects


def _unsupported(name: str) -> Reject:
    ending = PurePosixPath(name).suffix
    problem = f"{ending} is not a supported picture format" if ending else "its name has no ending"
    return Reject(name=name, reason="unsupported", detail=f"{problem}; save it as PNG")


def _without_picture(name: str) -> Reject:
    return Reject(name=name, reason="missing_file", detail="no picture has the same name")


def _links_out(root: Path, listing: FolderListing) -> list[Reject]:
    """Rejects for links to folders outside `root`."""
    found = [locate(root, name, name=name) for name in listing.links]
    return [each for each in found if isinstance(each, Reject) and each.reason == "path_escape"]


# --- captions in a table ---


def _table_entries(root: Path, file: Path, params: Ingest) -> list[Entry | Reject]:
    """The table's rows, then rejects for pictures that no row names and for folders that cannot be listed."""
    table, listing = read_table(file), list_folder(root)
    for column, key in (("file_name", "ingest.path"), (params.caption_column, "ingest.caption_column")):
        if column not in table.columns:
            names = ", ".join(table.columns) or "none"
            raise StageError(f"{key}: {file} has no column {column!r}; its columns: {names}")
    entries = [row if isinstance(row, Reject) else _row_entry(root, row, params) for row in table.rows]
    file_names = [row.values.get("file_name") for row in table.rows if isinstance(row, Row)]
    named = {Path(name).as_posix() for name in file_names if isinstance(name, str)}
    unnamed = [name for name in _pictures(listing) if name not in named]
    detail = f"no row of {file.name} names it"
    rejects = [Reject(name=name, reason="no_caption", detail=detail) for name in unnamed]
    return [*entries, *rejects, *listing.unreadable]


def _row_entry(root: Path, row: Row, params: Ingest) -> Entry | Reject:
    file_name = row.values.get("file_name")
    if not isinstance(file_name, str) or not file_name:
        return Reject(name=row.place, reason="bad_row", detail=f"no file_name in {_shortened(row.values)}")
    picture = locate(root, file_name, name=file_name)
    if isinstance(picture, Reject):
        return picture
    attributes = plain_attributes(row.values, without=("file_name", params.caption_column))
    caption = row.values.get(params.caption_column)
    return Entry(name=file_name, picture=picture, caption=caption, attributes=attributes)


def _shortened(row: Mapping[str, Any]) -> str:
    text = repr(dict(row))
    return text if len(text) <= _MAX_SHOWN_CHARS else text[: _MAX_SHOWN_CHARS - 3] + "..."
