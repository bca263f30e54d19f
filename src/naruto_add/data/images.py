"""Any picture file into a square RGB picture: upright, over white, in its own colours, of the base model's size."""

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

# Bitmaps only: other formats that Pillow knows start programs (EPS) or hold several pictures (ICO, ICNS, PSD).
_FORMATS = ("AVIF", "BMP", "GIF", "JPEG", "JPEG2000", "PNG", "PPM", "TGA", "TIFF", "WEBP")
_WHITE_16_BIT = 65535
_UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
"""What undoes each orientation of EXIF tag 274."""


@dataclass(frozen=True, kw_only=True)
class PictureRules:
    """What is refused, and what a picture becomes."""

    resolution_px: int
    min_side_px: int
    max_megapixels: float
    crop: Literal["center", "top"]


class UnusablePictureError(Exception):
    """A picture that cannot be taken, and why."""

    def __init__(self, reason: Reason, detail: str) -> None:
        super().__init__(reason, detail)
        self.reason: Reason = reason
        self.detail = detail


def picture_suffixes() -> set[str]:
    """The file name endings of the formats that are read, lower case with their dot."""
    Image.init()
    return {suffix for suffix, name in Image.EXTENSION.items() if name in _FORMATS}


def read_picture(file: Path | bytes, rules: PictureRules) -> Image.Image:
    """The picture, its shorter side scaled to the resolution (Lanczos) and the longer one cut to the same length.

    `crop: center` keeps the middle; `crop: top` keeps the top of a tall picture and the middle of a wide one.
    Raises UnusablePictureError for whatever cannot be read.
    """
    try:
        with (
            _own_size_limit(),
            Image.open(BytesIO(file) if isinstance(file, bytes) else file, formats=_known()) as image,
        ):
            _check(image, rules)
            image.load()
            rgb = _rgb(_upright(image))
    except UnusablePictureError:
        raise
    except Exception as error:  # decoders raise nearly every built-in error on broken files
        raise _unreadable(error) from error
    side_px = (rules.resolution_px, rules.resolution_px)
    middle = (0.5, 0.0 if rules.crop == "top" else 0.5)
    return ImageOps.fit(rgb, side_px, Image.Resampling.LANCZOS, centering=middle)


@contextmanager
def _own_size_limit() -> Iterator[None]:
    """`_check` holds pictures to `ingest.max_megapixels` before they are decoded; Pillow's fixed limit steps aside."""
    limit, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, None
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        Image.MAX_IMAGE_PIXELS = limit


def _known() -> tuple[str, ...]:
    Image.init()
    return tuple(name for name in _FORMATS if name in Image.OPEN)


def _check(image: Image.Image, rules: PictureRules) -> None:
    """Raises UnusablePictureError for what the header alone gives away."""
    width_px, height_px = image.size
    megapixels = width_px * height_px / 1e6
    size = f"{width_px} x {height_px} px"
    if megapixels > rules.max_megapixels:
        limit = f"ingest.max_megapixels ({rules.max_megapixels:g})"
        raise UnusablePictureError("oversized", f"{size} is {megapixels:.4g} megapixels, above {limit}")
    if min(image.size) < rules.min_side_px:
        raise UnusablePictureError("too_small", f"{size} is below ingest.min_side_px ({rules.min_side_px})")
    # A camera's JPEG may hold a second view (MPO); the first is the photograph.
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
    """The picture in sRGB, 8 bits a channel; whatever is transparent shows white."""
    image = _eight_bits(image)
    if image.mode in ("PA", "La", "RGBa") or image.has_transparency_data:
        image = image.convert("RGBA")
    image = _color_managed(image)
    if image.mode == "RGBA":
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    return image.convert("RGB")


def _eight_bits(image: Image.Image) -> Image.Image:
    """Sixteen-bit greys scaled to eight: Pillow's own conversion clips them all to white."""
    if image.mode == "F":
        raise UnusablePictureError(
            "unsupported", "floating-point values have no stated white; save it with 8 or 16 bits"
        )
    if not image.mode.startswith("I"):
        return image
    values = np.asarray(image).astype(np.int64)
    if values.min() < 0 or values.max() > _WHITE_16_BIT:
        raise UnusablePictureError(
            "unsupported", "values beyond 16 bits have no stated white; save it with 8 or 16 bits"
        )
    grey = Image.fromarray(np.rint(values * (255 / _WHITE_16_BIT)).astype(np.uint8))
    clear = image.info.get("transparency")
    if clear is not None:
        grey.putalpha(Image.fromarray(np.where(values == clear, 0, 255).astype(np.uint8)))
    return grey


def _color_managed(image: Image.Image) -> Image.Image:
    """The picture in sRGB where it names another colour space, as photographs and print files (CMYK) do."""
    profile = image.info.get("icc_profile")
    if not profile or image.mode not in ("RGB", "RGBA", "CMYK", "L"):
        return image
    output_mode = "RGBA" if image.mode == "RGBA" else "RGB"
    try:
        own = ImageCms.ImageCmsProfile(BytesIO(profile))
        converted = ImageCms.profileToProfile(image, own, ImageCms.createProfile("sRGB"), outputMode=output_mode)
    except (ImageCms.PyCMSError, OSError, ValueError):
        return image  # a profile that does not fit its picture is ignored, as viewers do
    return converted or image
