"""Captions in a text file next to each picture: 0001.txt or 0001.caption for 0001.png, in any case."""

import re
from collections import defaultdict
from collections.abc import Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import replace
from pathlib import Path, PurePosixPath

from naruto_add.data.entries import Captioned, Entry, FolderListing, Reject, folded, locate, split_of_folder
from naruto_add.data.formats import is_picture, is_unread_picture, picture_suffixes, unread_detail
from naruto_add.data.text import UnknownEncodingError, decode_text

_TEXT_ENDINGS = (".txt", ".caption")
"""Endings of caption files, in the order of preference."""
_NUMBER = re.compile(r"[0-9a-f-]{8,}|\d+")
"""The part of a name that differs between the files of a series: a number, a date, or hexadecimal digits."""


def read_sidecars(root: Path, listing: FolderListing) -> Captioned:
    """The pictures with their captions, then rejects for texts without a picture, pictures that are not read, links.

    A text file without a picture is a caption whose picture is missing if it is named as the pictures are, but for
    numbers, or ends with .caption; others, such as README.txt, are ignored.
    """
    names_of: dict[PurePosixPath, list[str]] = defaultdict(list)
    similar: dict[str, list[str]] = defaultdict(list)
    for name in listing.files:
        names_of[_stem(name)].append(name)
        if _is_text(name):
            similar[folded(str(_stem(name)))].append(name)
    suffixes = picture_suffixes()
    pictures = [name for name in listing.files if PurePosixPath(name).suffix.lower() in suffixes]
    texts_of = {name: _texts(names_of.get(_stem(name), ())) for name in pictures}
    taken = {text for texts in texts_of.values() for text in texts}
    for name in pictures:
        texts_of[name] = texts_of[name] or _texts_of_similar_name(name, similar, taken)
    taken.update(text for texts in texts_of.values() for text in texts)
    entries = [_entry(root, name, texts) for name, texts in texts_of.items()]
    rejects, ignored = _without_picture(root, names_of, taken, {_series(name) for name in pictures})
    counted = {reject.name for reject in rejects}
    rejects += [_unread(name) for name in listing.files if is_unread_picture(name) and name not in counted]
    entries += [*rejects, *_links_out(root, listing), *listing.unreadable]
    return Captioned(entries=entries, ignored=sorted(ignored))


def _stem(name: str) -> PurePosixPath:
    return PurePosixPath(name).with_suffix("")


def _series(name: str) -> str:
    """What the names of a series of files have in common: the name without folder, ending and numbers."""
    return _NUMBER.sub("#", folded(PurePosixPath(name).stem))


def _is_text(name: str) -> bool:
    return PurePosixPath(name).suffix.lower() in _TEXT_ENDINGS


def _texts_of_similar_name(picture: str, similar: Mapping[str, list[str]], taken: AbstractSet[str]) -> list[str]:
    """Text files of the picture's name in another case or Unicode form, or with its ending (0001.png.txt)."""
    found = similar.get(folded(str(_stem(picture)))) or similar.get(folded(picture)) or []
    texts = _texts([name for name in found if name not in taken])
    return texts if len({_stem(name) for name in texts}) == 1 else []


def _texts(names: Sequence[str]) -> list[str]:
    """The text files among them, the preferred one first."""

    def preference(name: str) -> tuple[int, bool, str]:
        ending = PurePosixPath(name).suffix
        return _TEXT_ENDINGS.index(ending.lower()), ending != ending.lower(), name

    return sorted(filter(_is_text, names), key=preference)


def _entry(root: Path, name: str, texts: list[str]) -> Entry | Reject:
    """The picture with the captions of its text file, one in each line."""
    picture = locate(root, name, name=name)
    if isinstance(picture, Reject):
        return picture
    text_name = texts[0] if texts else str(PurePosixPath(name).with_suffix(_TEXT_ENDINGS[0]))
    text = locate(root, text_name, name=name)
    if isinstance(text, Reject):
        return replace(text, reason="no_caption") if text.reason == "missing_file" else text
    try:
        content = decode_text(text.read_bytes())
    except (UnknownEncodingError, OSError) as error:
        return Reject(name=name, reason="no_caption", detail=f"{text_name} cannot be read: {error}")
    captions = [line for line in re.split(r"[\r\n]+", content) if line.strip()]
    return Entry(name=name, picture=picture, captions=captions, split=split_of_folder(root, name))


def _without_picture(
    root: Path,
    names_of: Mapping[PurePosixPath, list[str]],
    taken: AbstractSet[str],
    series: AbstractSet[str],
) -> tuple[list[Reject], list[str]]:
    """Rejects for captions without a picture, and the other texts without one.

    Other files of a caption's name are named in its place, if there are any; a text beside a picture without a known
    ending is a caption. Without any `series` of pictures, all texts are taken for captions.
    """
    rejects: list[Reject] = []
    ignored: list[str] = []
    for names in names_of.values():
        texts = [name for name in _texts(names) if name not in taken]
        if not texts:
            continue
        others = [name for name in names if not _is_text(name)]
        is_named = any(text.lower().endswith(".caption") for text in texts)
        is_caption = not series or is_named or _series(texts[0]) in series
        if unread := others if is_caption else [name for name in others if _may_be_picture(root, name)]:
            rejects += map(_unread, unread)
        elif is_caption:
            rejects += map(_lonely, texts)
        else:
            ignored += texts
    return rejects, ignored


def _may_be_picture(root: Path, name: str) -> bool:
    file = locate(root, name, name=name)
    return is_unread_picture(name) or (isinstance(file, Path) and is_picture(file))


def _unread(name: str) -> Reject:
    return Reject(name=name, reason="unsupported", detail=unread_detail(name))


def _lonely(name: str) -> Reject:
    return Reject(name=name, reason="missing_file", detail="no picture has the same name")


def _links_out(root: Path, listing: FolderListing) -> list[Reject]:
    """Rejects for links to folders outside `root`."""
    found = [locate(root, name, name=name) for name in listing.links]
    return [each for each in found if isinstance(each, Reject) and each.reason == "path_escape"]
