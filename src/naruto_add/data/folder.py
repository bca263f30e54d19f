"""A folder of pictures whose captions are in tables, text files or names, or are all the same."""

import re
from collections import Counter
from pathlib import Path, PurePosixPath

from naruto_add.config.schema import Ingest
from naruto_add.data.entries import (
    Captioned,
    Entry,
    FolderListing,
    Reject,
    Source,
    list_folder,
    locate,
    split_of_folder,
)
from naruto_add.data.formats import is_unread_picture, picture_suffixes, unread_detail
from naruto_add.data.metadata import find_tables, is_table, table_entries
from naruto_add.data.sidecars import read_sidecars
from naruto_add.runtime.errors import StageError, shown

_ARCHIVES = tuple(".zip .7z .rar .tar .tgz .tbz2 .txz .tar.gz .tar.bz2 .tar.xz .tar.zst".split())  # noqa: SIM905
_OTHER_TABLES = (".json", ".jsonl", ".csv", ".tsv", ".xlsx", ".xml", ".gz")
_MAX_ENDINGS = 6
_Entries = list[Entry | Reject]


def open_folder(params: Ingest) -> Source:
    """The folder's entries. Raises StageError or OSError if the folder as a whole cannot be used."""
    root = Path(params.path)
    if not root.is_dir():
        raise StageError(f"ingest.path: {params.path!r} is not a folder; name one that holds captioned pictures")
    listing = list_folder(root)
    found = _captioned(root, listing, params)
    entries = found.entries
    _check_unpacked(entries, listing, params)
    named = {entry.name for entry in entries}
    entries += [_archive(name) for name in _archives(listing) if name not in named]
    return Source(num_entries=len(entries), entries=entries, ignored=found.ignored)


def _captioned(root: Path, listing: FolderListing, params: Ingest) -> Captioned:
    """The entries by `ingest.captions`; `auto` takes a table in the folder, text files, or deeper tables."""
    match params.captions:
        case "metadata":
            tables = find_tables(root, listing, params)
            found = Captioned(entries=table_entries(root, tables, listing, params) if tables else [])
        case "sidecar":
            found = read_sidecars(root, listing)
        case "file_name" | "constant":
            found = Captioned(entries=_named_entries(root, listing, params))
        case "auto":
            return _found_entries(root, listing, params)
    if not any(isinstance(entry, Entry) for entry in found.entries):
        raise _no_captions(found.entries, listing, params)
    return found


def _found_entries(root: Path, listing: FolderListing, params: Ingest) -> Captioned:
    tables = find_tables(root, listing, params)
    outermost = [table for table in tables if "/" not in table]
    if outermost:
        return Captioned(entries=table_entries(root, outermost, listing, params))
    found = read_sidecars(root, listing)
    if any(isinstance(entry, Entry) for entry in found.entries):
        return found
    if tables:
        return Captioned(entries=table_entries(root, tables, listing, params))
    raise _no_captions(found.entries, listing, params)


# --- captions without any text ---


def _named_entries(root: Path, listing: FolderListing, params: Ingest) -> _Entries:
    """Every picture with the caption that its name contains, or with `ingest.caption`."""
    suffixes = picture_suffixes()
    entries: _Entries = []
    for name in listing.files:
        if is_unread_picture(name):
            entries.append(Reject(name=name, reason="unsupported", detail=unread_detail(name)))
        elif PurePosixPath(name).suffix.lower() in suffixes:
            picture = locate(root, name, name=name)
            caption = params.caption if params.captions == "constant" else caption_in_name(name)
            if isinstance(picture, Path):
                split = split_of_folder(root, name)
                entries.append(Entry(name=name, picture=picture, captions=caption, split=split))
            else:
                entries.append(picture)
    return [*entries, *listing.unreadable]


def caption_in_name(name: str) -> str:
    """The file's name without folder, ending, and number at its end; underscores are spaces."""
    words = PurePosixPath(name).stem.replace("_", " ")
    return re.sub(r"[\s\-.]*(\(\d+\)|\d+)?\s*$", "", words)


# --- folders that cannot be used ---


def _no_captions(entries: _Entries, listing: FolderListing, params: Ingest) -> StageError:
    """What the folder holds, and which value of `ingest.captions` would fit."""
    if archives := _archives(listing):
        return _packed(archives, params)
    first = next((f"; {shown(each.name)}: {each.detail}" for each in entries if isinstance(each, Reject)), "")
    key = f"ingest.path: {params.path!r}"
    if params.captions != "auto":
        key = f"ingest.captions: {params.captions} finds no captions in {params.path!r}"
    else:
        key += " has no captioned pictures"
    return StageError(
        f"{key}; add metadata.jsonl or metadata.csv with the columns file_name and {params.caption_column}, or a text "
        f"file next to each picture (0001.png, 0001.txt){first}\n{_inventory(listing)}{_fitting(listing, params)}"
    )


def _inventory(listing: FolderListing) -> str:
    endings = Counter(PurePosixPath(name).suffix or "without ending" for name in listing.files)
    counts = ", ".join(f"{count} {ending}" for ending, count in endings.most_common(_MAX_ENDINGS))
    more = ", ..." if len(endings) > _MAX_ENDINGS else ""
    return f"the folder holds {counts}{more}" if counts else "the folder is empty"


def _fitting(listing: FolderListing, params: Ingest) -> str:
    """The values of `ingest.captions` and `ingest.source` that would find captions."""
    choices = []
    if any("/" in name or params.captions != "auto" for name in _tables(listing)):
        choices.append("ingest.captions metadata reads its tables")
    if others := [name for name in listing.files if name.lower().endswith(_OTHER_TABLES) and not is_table(name)]:
        choices.append(
            f"{shown(others[0])} is not read: write it as metadata.jsonl, an object for each picture on a line"
        )
    suffixes = picture_suffixes()
    pictures = [name for name in listing.files if PurePosixPath(name).suffix.lower() in suffixes]
    phrases = [caption for name in pictures if " " in (caption := caption_in_name(name))]
    if phrases:
        choices.append(f"ingest.captions file_name reads the pictures' names, such as {phrases[0]!r}")
    if pictures:
        choices.append("ingest.captions constant gives each picture the caption in ingest.caption")
    if any(name.lower().endswith(".parquet") for name in listing.files):
        choices.append("ingest.source parquet reads its parquet files")
    return "".join(f"; {choice}" for choice in choices)


def _tables(listing: FolderListing) -> list[str]:
    return [name for name in listing.files if is_table(name)]


def _check_unpacked(entries: _Entries, listing: FolderListing, params: Ingest) -> None:
    """Raises StageError if the folder has no picture, but an archive that may contain them."""
    archives = _archives(listing)
    if archives and not any(isinstance(entry, Entry) for entry in entries):
        raise _packed(archives, params)


def _archives(listing: FolderListing) -> list[str]:
    return [name for name in listing.files if name.lower().endswith(_ARCHIVES)]


def _archive(name: str) -> Reject:
    return Reject(name=name, reason="unsupported", detail="its content is not read; unpack it in its folder")


def _packed(archives: list[str], params: Ingest) -> StageError:
    others = f" and {len(archives) - 1} more" if len(archives) > 1 else ""
    return StageError(
        f"ingest.path: {params.path!r} has no pictures outside of {shown(archives[0])}{others}; unpack it in its folder"
    )
