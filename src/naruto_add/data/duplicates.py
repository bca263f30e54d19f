"""Which pictures are the same as an earlier one: pixel for pixel, or to the eye."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import imagehash
import numpy as np
from numpy.typing import NDArray
from PIL import Image

_THUMBNAIL_PX = 8
# Levels of 255 by which two copies' thumbnails may differ anywhere. Drawn portraits share their layout: by perceptual
# hashes alone, 615 of 1,000 DiceBear portraits would be copies of others. With this bound it is 2, which differ in
# their eyes only, and none of 1,400 shinobi, while brightened, rescaled and recompressed copies are still found. No
# parameter: it belongs to the measure, as the size of the thumbnail does, so that ingest.duplicate_distance alone says
# how alike copies are.
_MAX_DIFFERENCE = 20


@dataclass(frozen=True, kw_only=True)
class Fingerprint:
    """What is compared of a picture: all of its pixels, its structure and its colours."""

    content: str
    structure: int
    thumbnail: bytes


@dataclass(frozen=True, kw_only=True)
class Duplicate:
    """A picture that repeats an earlier one, by their positions."""

    position: int
    original: int
    kind: Literal["duplicate", "near_duplicate"]


def fingerprint(image: Image.Image) -> Fingerprint:
    """The fingerprint of an RGB picture."""
    bits = np.packbits(imagehash.phash(image).hash.ravel())
    thumbnail = image.resize((_THUMBNAIL_PX, _THUMBNAIL_PX), Image.Resampling.BOX)
    return Fingerprint(
        content=hashlib.sha256(image.tobytes()).hexdigest(),
        structure=int.from_bytes(bits.tobytes(), "big"),
        thumbnail=thumbnail.tobytes(),
    )


def find_duplicates(fingerprints: Sequence[Fingerprint], *, distance: int) -> list[Duplicate]:
    """Every picture that repeats an earlier one that is kept; mirrored and turned copies are other pictures.

    `distance` is the number of bits of 64 in which two perceptual hashes may differ.
    """
    structures = np.array([each.structure for each in fingerprints], np.uint64)
    seen: dict[str, int] = {}
    kept = np.zeros(len(fingerprints), np.int64)
    num_kept = 0
    duplicates = []
    for position, each in enumerate(fingerprints):
        if each.content in seen:
            duplicates.append(Duplicate(position=position, original=seen[each.content], kind="duplicate"))
            continue
        earlier = kept[:num_kept]
        alike = earlier[np.bitwise_count(structures[earlier] ^ structures[position]) <= distance]
        original = next((int(other) for other in alike if _same_colors(each, fingerprints[other])), None)
        if original is None:
            seen[each.content] = position
            kept[num_kept] = position
            num_kept += 1
        else:
            seen[each.content] = original
            duplicates.append(Duplicate(position=position, original=original, kind="near_duplicate"))
    return duplicates


def _same_colors(one: Fingerprint, other: Fingerprint) -> bool:
    return bool(np.abs(_colors(one) - _colors(other)).max() <= _MAX_DIFFERENCE)


def _colors(each: Fingerprint) -> NDArray[np.int16]:
    return np.frombuffer(each.thumbnail, np.uint8).astype(np.int16)
