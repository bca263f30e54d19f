"""Any picture file as an RGB picture of the base model's size: upright, in sRGB, over white."""

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any, Literal

import numpy as np
from PIL import ExifTags, Image, ImageCms, ImageOps, UnidentifiedImageError
from PIL.TiffImagePlugin import TiffImageFile

from naruto_add.data.formats import LFS_POINTER, installed_formats, is_lfs_pointer
from naruto_add.data.jpeg import is_cut_short

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
Size = tuple[int, int]
"""Width and height of a picture, in pixels."""

_WHITE_16_BIT = 65535
_BITS_PER_SAMPLE, _PHOTOMETRIC, _WHITE_IS_ZERO = 258, 262, 0
"""Tags of TIFF that say which grey values are white and black."""
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
    buckets: tuple[Size, ...] = ()
    """The sizes of pictures in addition to the square; empty if every picture becomes a square alone."""


class UnusablePictureError(Exception):
    """A picture is rejected, with the reason."""

    def __init__(self, reason: Reason, detail: str) -> None:
        super().__init__(reason, detail)
        self.reason: Reason = reason
        self.detail = detail


def read_picture(file: Path | bytes, rules: PictureRules) -> Image.Image:
    """The picture as a square of the resolution, as `fit_picture` makes it. Raises what `read_whole` raises."""
    return fit_picture(read_whole(file, rules), (rules.resolution_px, rules.resolution_px), crop=rules.crop)


def fit_picture(image: Image.Image, size: Size, *, crop: Literal["center", "top"]) -> Image.Image:
    """The picture, cropped to the aspect of `size` and scaled to it (Lanczos).

    `crop: center` keeps the middle; `crop: top` keeps the top of a tall picture and the middle of a wide one.
    """
    return ImageOps.fit(image, size, Image.Resampling.LANCZOS, centering=(0.5, 0.0 if crop == "top" else 0.5))


def read_whole(file: Path | bytes, rules: PictureRules) -> Image.Image:
    """The whole picture, upright, in sRGB, over white.

    Raises UnusablePictureError if the picture cannot be read or breaks a rule.
    """
    try:
        with (
            _without_pillows_size_limit(),
            Image.open(BytesIO(file) if isinstance(file, bytes) else file, formats=installed_formats()) as image,
        ):
            _check_header(image, rules)
            image.load()
            _check_complete(image, file)
            return _rgb(_upright(image))
    except UnusablePictureError:
        raise
    except Exception as error:  # decoders raise nearly every built-in error for broken files
        raise _unreadable(error, file) from error


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


def _check_complete(image: Image.Image, file: Path | bytes) -> None:
    if image.format not in ("JPEG", "MPO"):
        return
    if is_cut_short(image, file if isinstance(file, bytes) else file.read_bytes()):
        raise UnusablePictureError("truncated", "its data end before its last line, although an end marker follows")


def _unreadable(error: Exception, file: Path | bytes) -> UnusablePictureError:
    if isinstance(error, UnidentifiedImageError) and is_lfs_pointer(
        file if isinstance(file, bytes) else file.read_bytes()
    ):
        return UnusablePictureError("broken", f"it is {LFS_POINTER}")
    detail = f"{type(error).__name__}: {error}"
    if "truncated" in str(error).lower():
        return UnusablePictureError("truncated", detail)
    return UnusablePictureError("broken", detail)


def _upright(image: Image.Image) -> Image.Image:
    try:
        orientation = image.getexif().get(ExifTags.Base.Orientation, 1)
    except Exception:  # noqa: BLE001 (damaged EXIF data raise nearly any error, and the picture is sound without them)
        return image
    return image.transpose(_UPRIGHT[orientation]) if orientation in _UPRIGHT else image


def _rgb(image: Image.Image) -> Image.Image:
    """The picture in sRGB with 8 bits per channel, transparency over white."""
    profile = image.info.get("icc_profile")
    image = _eight_bits(image)
    if image.mode == "LA" and profile:
        image = _grey_in_srgb(image, profile)
    elif image.mode in ("PA", "La", "RGBa") or image.has_transparency_data:
        image = image.convert("RGBA")
    elif image.mode == "P":
        image = image.convert("RGB")
    image = _in_srgb(image, profile)
    if image.mode == "RGBA":
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    return image.convert("RGB")


def _eight_bits(image: Image.Image) -> Image.Image:
    """Scale grey values of 9 to 16 bits to 8 bits; Pillow's own conversion clips them to white."""
    if image.mode == "F":
        raise UnusablePictureError("unsupported", "floating-point values have no known white level; use 8 or 16 bits")
    if not image.mode.startswith("I"):
        return image
    values = np.asarray(image).astype(np.int64)
    white = _white_level(image)
    if values.min() < 0 or values.max() > white:
        raise UnusablePictureError("unsupported", "values beyond 16 bits have no known white level; use 8 or 16 bits")
    levels = np.rint(values * (255 / white)).astype(np.uint8)
    grey = Image.fromarray(255 - levels if _is_white_zero(image) else levels)
    transparent_value = image.info.get("transparency")
    if transparent_value is not None:
        grey.putalpha(Image.fromarray(np.where(values == transparent_value, 0, 255).astype(np.uint8)))
    return grey


def _white_level(image: Image.Image) -> int:
    """The largest value of a sample. Of Pillow's formats only TIFF keeps values of 9 to 15 bits as they are."""
    bits = _tiff_tag(image, _BITS_PER_SAMPLE)
    num_bits = bits[0] if isinstance(bits, tuple) else bits
    return 2**num_bits - 1 if isinstance(num_bits, int) and 8 < num_bits < 16 else _WHITE_16_BIT


def _is_white_zero(image: Image.Image) -> bool:
    """Whether 0 is white. Pillow inverts such pictures itself if they have at most 8 bits."""
    return bool(_tiff_tag(image, _PHOTOMETRIC) == _WHITE_IS_ZERO)


def _tiff_tag(image: Image.Image, tag: int) -> Any:
    return image.tag_v2.get(tag) if isinstance(image, TiffImageFile) else None


def _grey_in_srgb(image: Image.Image, profile: bytes) -> Image.Image:
    """A grey picture with transparency as RGBA: a grey profile fits its grey channel alone."""
    grey, alpha = image.split()
    color = _in_srgb(grey, profile).convert("RGB")
    color.putalpha(alpha)
    return color


def _in_srgb(image: Image.Image, profile: bytes | None) -> Image.Image:
    """The picture converted from the colour space of its ICC profile, if it has one (photographs, CMYK)."""
    if not profile or image.mode not in ("RGB", "RGBA", "CMYK", "L"):
        return image
    output_mode = "RGBA" if image.mode == "RGBA" else "RGB"
    try:
        own = ImageCms.ImageCmsProfile(BytesIO(profile))
        converted = ImageCms.profileToProfile(image, own, ImageCms.createProfile("sRGB"), outputMode=output_mode)
    except (ImageCms.PyCMSError, OSError, ValueError):
        return image  # viewers, too, ignore a profile that does not fit its picture
    return converted or image
