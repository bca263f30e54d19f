"""Captions in a text file next to each picture: 0001.txt or 0001.caption for 0001.png, in any case."""

import re
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path, PurePosixPath

from naruto_add.data.entries import Entry, FolderListing, Reject, locate, split_of_folder
from naruto_add.data.formats import is_unread_picture, picture_suffixes, unread_detail
from naruto_add.data.text import UnknownEncodingError, decode_text

_TEXT_ENDINGS = (".txt", ".caption")
"""Endings of caption files, in the order of preference."""


def sidecar_entries(root: Path, listing: FolderListing) -> list[Entry | Reject]:
    """The pictures with their captions, then rejects for texts without a picture, pictures that are not read, links."""
    names_of: dict[PurePosixPath, list[str]] = defaultdict(list)
    for name in listing.files:
        names_of[_stem(name)].append(name)
    suffixes = picture_suffixes()
    pictures = [name for name in listing.files if PurePosixPath(name).suffix.lower() in suffixes]
    entries = [_entry(root, name, _texts(names_of[_stem(name)])) for name in pictures]
    rejects = _without_picture(names_of, set(pictures))
    counted = {reject.name for reject in rejects}
    rejects += [_unread(name) for name in listing.files if is_unread_picture(name) and name not in counted]
    return [*entries, *rejects, *_links_out(root, listing), *listing.unreadable]


def _stem(name: str) -> PurePosixPath:
    return PurePosixPath(name).with_suffix("")


def _texts(names: Sequence[str]) -> list[str]:
    """The text files among them, the preferred one first."""

    def preference(name: str) -> tuple[int, bool, str]:
        ending = PurePosixPath(name).suffix
        return _TEXT_ENDINGS.index(ending.lower()), ending != ending.lower(), name

    return sorted((name for name in names if PurePosixPath(name).suffix.lower() in _TEXT_ENDINGS), key=preference)


def _entry(root: Path, name: str, texts: list[str]) -> Entry | Reject:
    """The picture with the captions of its text file, one in each line."""
    picture = locate(root, name, name=name)
    if isinstance(picture, Reject):
        return picture
    text_name = texts[0] if texts else str(PurePosixPath(name).with_suffix(_TEXT_ENDINGS[0]))
    text = locate(root, text_name, name=name)
    if isinstance(text, Reject):
        is_missing = text.reason == "missing_file"
        return Reject(name=name, reason="no_caption", detail=f"{text_name} is missing") if is_missing else text
    try:
        content = decode_text(text.read_bytes())
    except (UnknownEncodingError, OSError) as error:
        return Reject(name=name, reason="no_caption", detail=f"{text_name} cannot be read: {error}")
    captions = [line for line in re.split(r"[\r\n]+", content) if line.strip()]
    return Entry(name=name, picture=picture, captions=captions, split=split_of_folder(root, name))


def _without_picture(names_of: dict[PurePosixPath, list[str]], pictures: set[str]) -> list[Reject]:
    """Rejects for text files without a picture; other files of the same name are named in their place, if any."""
    rejects = []
    for names in names_of.values():
        texts = _texts(names)
        if texts and not pictures.intersection(names):
            others = [name for name in names if name not in texts]
            rejects += [_unread(name) for name in others] or [_lonely(name) for name in texts]
    return rejects


def _unread(name: str) -> Reject:
    return Reject(name=name, reason="unsupported", detail=unread_detail(name))


def _lonely(name: str) -> Reject:
    return Reject(name=name, reason="missing_file", detail="no picture has the same name")


def _links_out(root: Path, listing: FolderListing) -> list[Reject]:
    """Rejects for links to folders outside `root`."""
    found = [locate(root, name, name=name) for name in listing.links]
    return [each for each in found if isinstance(each, Reject) and each.reason == "path_escape"]
