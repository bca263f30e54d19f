"""Any picture file as a square RGB picture of the base model's size: upright, in sRGB, over white."""

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Literal

import numpy as np
from PIL import ExifTags, Image, ImageCms, ImageOps

Reason = Literal[
    "animated",
    "bad_row",
    "broken",
    "missing_file",
    "no_caption",
    "oversized",
    "path_escape",
    "too_small",
    "truncated",
    "unsupported",
]
"""Why an entry is rejected."""

# Single bitmaps only: Pillow's other formats start programs (EPS) or hold several pictures (ICO, ICNS, PSD).
_FORMATS = ("AVIF", "BMP", "GIF", "JPEG", "JPEG2000", "PNG", "PPM", "TGA", "TIFF", "WEBP")
_WHITE_16_BIT = 65535
# ImageOps.exif_transpose gives the same pixels, but it also rewrites the EXIF data and fails if other tags are damaged.
_UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
"""The transposition that undoes each EXIF orientation."""


@dataclass(frozen=True, kw_only=True)
class PictureRules:
    """Which pictures are rejected, and how the others are cropped and scaled."""

    resolution_px: int
    min_side_px: int
    max_megapixels: float
    crop: Literal["center", "top"]


class UnusablePictureError(Exception):
    """A picture is rejected, with the reason."""

    def __init__(self, reason: Reason, detail: str) -> None:
        super().__init__(reason, detail)
        self.reason: Reason = reason
        self.detail = detail


def picture_suffixes() -> set[str]:
    """The file name endings of the supported formats, in lower case with the dot."""
    Image.init()
    return {suffix for suffix, name in Image.EXTENSION.items() if name in _FORMATS}


def read_picture(file: Path | bytes, rules: PictureRules) -> Image.Image:
    """The picture, cropped to a square and scaled to the resolution (Lanczos).

    `crop: center` keeps the middle; `crop: top` keeps the top of a tall picture and the middle of a wide one.
    Raises UnusablePictureError if the picture cannot be read or breaks a rule.
    """
    try:
        with (
            _without_pillows_size_limit(),
            Image.open(BytesIO(file) if isinstance(file, bytes) else file, formats=_installed_formats()) as image,
        ):
            _check_header(image, rules)
            image.load()
            rgb = _rgb(_upright(image))
    except UnusablePictureError:
        raise
    except Exception as error:  # decoders raise nearly every built-in error for broken files
        raise _unreadable(error) from error
    size_px = (rules.resolution_px, rules.resolution_px)
    centering = (0.5, 0.0 if rules.crop == "top" else 0.5)
    return ImageOps.fit(rgb, size_px, Image.Resampling.LANCZOS, centering=centering)


@contextmanager
def _without_pillows_size_limit() -> Iterator[None]:
    """Suspend Pillow's fixed limit: `_check_header` applies `ingest.max_megapixels` before anything is decoded."""
    limit, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, None
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        Image.MAX_IMAGE_PIXELS = limit


def _installed_formats() -> tuple[str, ...]:
    Image.init()
    return tuple(name for name in _FORMATS if name in Image.OPEN)


def _check_header(image: Image.Image, rules: PictureRules) -> None:
    width_px, height_px = image.size
    megapixels = width_px * height_px / 1e6
    size = f"{width_px} x {height_px} px"
    if megapixels > rules.max_megapixels:
        limit = f"ingest.max_megapixels ({rules.max_megapixels:g})"
        raise UnusablePictureError("oversized", f"{size} is {megapixels:.4g} megapixels, above {limit}")
    if min(image.size) < rules.min_side_px:
        raise UnusablePictureError("too_small", f"{size} is below ingest.min_side_px ({rules.min_side_px})")
    # A camera's JPEG may hold a second view (MPO); its first picture is the photograph.
    if getattr(image, "n_frames", 1) > 1 and image.format != "MPO":
        raise UnusablePictureError("animated", f"{getattr(image, 'n_frames', 1)} frames")


def _unreadable(error: Exception) -> UnusablePictureError:
    detail = f"{type(error).__name__}: {error}"
    if "truncated" in str(error).lower():
        return UnusablePictureError("truncated", detail)
    return UnusablePictureError("broken", detail)


def _upright(image: Image.Image) -> Image.Image:
    orientation = image.getexif().get(ExifTags.Base.Orientation, 1)
    return image.transpose(_UPRIGHT[orientation]) if orientation in _UPRIGHT else image


def _rgb(image: Image.Image) -> Image.Image:
    """The picture in sRGB with 8 bits per channel, transparency over white."""
    image = _eight_bits(image)
    if image.mode in ("PA", "La", "RGBa") or image.has_transparency_data:
        image = image.convert("RGBA")
    image = _in_srgb(image)
    if image.mode == "RGBA":
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    return image.convert("RGB")


def _eight_bits(image: Image.Image) -> Image.Image:
    """Scale 16-bit grey values to 8 bits; Pillow's own conversion clips them to white."""
    if image.mode == "F":
        raise UnusablePictureError("unsupported", "floating-point values have no known white level; use 8 or 16 bits")
    if not image.mode.startswith("I"):
        return image
    values = np.asarray(image).astype(np.int64)
    if values.min() < 0 or values.max() > _WHITE_16_BIT:
        raise UnusablePictureError("unsupported", "values beyond 16 bits have no known white level; use 8 or 16 bits")
    grey = Image.fromarray(np.rint(values * (255 / _WHITE_16_BIT)).astype(np.uint8))
    transparent_value = image.info.get("transparency")
    if transparent_value is not None:
        grey.putalpha(Image.fromarray(np.where(values == transparent_value, 0, 255).astype(np.uint8)))
    return grey


def _in_srgb(image: Image.Image) -> Image.Image:
    """The picture converted from the colour space of its ICC profile, if it has one (photographs, CMYK)."""
    profile = image.info.get("icc_profile")
    if not profile or image.mode not in ("RGB", "RGBA", "CMYK", "L"):
        return image
    output_mode = "RGBA" if image.mode == "RGBA" else "RGB"
    try:
        own = ImageCms.ImageCmsProfile(BytesIO(profile))
        converted = ImageCms.profileToProfile(image, own, ImageCms.createProfile("sRGB"), outputMode=output_mode)
    except (ImageCms.PyCMSError, OSError, ValueError):
        return image  # viewers, too, ignore a profile that does not fit its picture
    return converted or image
