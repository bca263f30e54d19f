"""Pictures that repeat an earlier one: equal in every pixel, or visually the same."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import imagehash
import numpy as np
from numpy.typing import NDArray
from PIL import Image

_THUMBNAIL_PX = 8
# The largest difference (of 255) between the thumbnails of two copies. Drawn portraits share a layout: by perceptual
# hashes alone, 615 of 1,000 DiceBear portraits would count as copies. With this bound 2 do, which differ only in their
# eyes, and none of 1,400 shinobi; brightened, rescaled and recompressed copies are still found. Like the thumbnail's
# size it is part of the measure and not a parameter: ingest.duplicate_distance alone sets the strictness.
_MAX_DIFFERENCE = 20


@dataclass(frozen=True, kw_only=True)
class Fingerprint:
    """What two pictures are compared by: a hash of all pixels, a 64-bit perceptual hash, and a thumbnail's colours."""

    content: str
    structure: int
    thumbnail: bytes


@dataclass(frozen=True, kw_only=True)
class Duplicate:
    """A picture that repeats an earlier one; both are given by their positions."""

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
    """Each picture that repeats an earlier one that is kept. Mirrored and rotated copies are different pictures.

    `distance` is the number of bits (of 64) in which the perceptual hashes of two near duplicates may differ.
    """
    structures = np.array([each.structure for each in fingerprints], np.uint64)
    original_of: dict[str, int] = {}
    kept = np.zeros(len(fingerprints), np.int64)
    num_kept = 0
    duplicates = []
    for position, each in enumerate(fingerprints):
        if each.content in original_of:
            duplicates.append(Duplicate(position=position, original=original_of[each.content], kind="duplicate"))
            continue
        earlier = kept[:num_kept]
        similar = earlier[np.bitwise_count(structures[earlier] ^ structures[position]) <= distance]
        original = next((int(other) for other in similar if _have_same_colors(each, fingerprints[other])), None)
        if original is None:
            original_of[each.content] = position
            kept[num_kept] = position
            num_kept += 1
        else:
            original_of[each.content] = original
            duplicates.append(Duplicate(position=position, original=original, kind="near_duplicate"))
    return duplicates


def _have_same_colors(one: Fingerprint, other: Fingerprint) -> bool:
    return bool(np.abs(_colors(one) - _colors(other)).max() <= _MAX_DIFFERENCE)


def _colors(each: Fingerprint) -> NDArray[np.int16]:
    return np.frombuffer(each.thumbnail, np.uint8).astype(np.int16)
