"""Whether a JPEG file lacks part of its picture although it ends with an end marker.

libjpeg fills what is missing with grey and only warns; Pillow discards the warning.
"""

import random
from io import BytesIO

from PIL import Image
from PIL.JpegImagePlugin import JpegImageFile

_NUM_INSERTED = 4096
_START_OF_SCAN, _END_OF_IMAGE = 0xDA, 0xD9
_WITHOUT_LENGTH = (0x00, 0x01, *range(0xD0, 0xD9))
"""Escaped bytes, TEM, and restart markers, all of which have no length field after them."""
_MISSING = 128
"""The value of every channel of a part that is missing."""


def is_cut_short(image: Image.Image, content: bytes) -> bool:
    """Whether the decoded `image` lacks data in its file's `content`.

    Bytes inserted before the end marker are skipped by a decoder that has all its data, and are drawn by one that has
    not. The comparison costs a second decoding, so a sequential picture is compared only if its last pixel is grey.
    """
    if not (image.info.get("progressive") or image.mode == "CMYK" or _ends_grey(image)):
        return False
    end = _end_marker(content)
    if end is None:
        return False
    inserted = bytes(random.Random(0).choices(range(1, 255), k=_NUM_INSERTED))
    with JpegImageFile(BytesIO(content[:end] + inserted + content[end:])) as longer:
        longer.load()
        return longer.tobytes() != image.tobytes()


def _ends_grey(image: Image.Image) -> bool:
    last = image.getpixel((image.width - 1, image.height - 1))
    return all(value == _MISSING for value in (last if isinstance(last, tuple) else (last,)))


def _end_marker(content: bytes) -> int | None:
    """The position of the end marker that follows the first picture's data; those of thumbnails are in segments."""
    position, is_in_scan = 2, False
    while 0 <= (position := content.find(b"\xff", position)) < len(content) - 1:
        marker = content[position + 1]
        if marker == _END_OF_IMAGE and is_in_scan:
            return position
        if marker == 0xFF:  # a fill byte
            position += 1
        elif marker in _WITHOUT_LENGTH:
            position += 2
        else:
            position += 2 + int.from_bytes(content[position + 2 : position + 4], "big")
            is_in_scan = is_in_scan or marker == _START_OF_SCAN
    return None
