"""Pictures of every kind look as in a viewer; files of every bad kind are rejected with a reason."""

import struct
import zlib
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import ExifTags, Image, ImageCms
from PIL.TiffImagePlugin import ImageFileDirectory_v2

from naruto_add.data.images import PictureRules, UnusablePictureError, read_picture

_RULES = PictureRules(resolution_px=16, min_side_px=8, max_megapixels=1.0, crop="center")
_ORANGE, _BLUE = (240, 120, 20), (20, 60, 200)


def _file(image: Image.Image, kind: str = "PNG", **options: Any) -> bytes:
    stream = BytesIO()
    image.save(stream, kind, **options)
    return stream.getvalue()


def _halves(size: tuple[int, int] = (32, 32)) -> Image.Image:
    """Orange above blue."""
    image = Image.new("RGB", size, _ORANGE)
    image.paste(_BLUE, (0, size[1] // 2, *size))
    return image


def _pixels(file: bytes, rules: PictureRules = _RULES) -> NDArray[np.int64]:
    image = read_picture(file, rules)
    assert (image.mode, image.size) == ("RGB", (16, 16))
    return np.asarray(image).astype(np.int64)


def _rejected(file: Path | bytes, rules: PictureRules = _RULES) -> UnusablePictureError:
    with pytest.raises(UnusablePictureError) as caught:
        read_picture(file, rules)
    return caught.value


def _png_chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def _png_header(width_px: int, height_px: int) -> bytes:
    header = struct.pack(">IIBBBBB", width_px, height_px, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + _png_chunk(b"IHDR", header) + _png_chunk(b"IDAT", zlib.compress(b"\0" * 100))


@pytest.mark.parametrize("kind", ["PNG", "BMP", "TIFF", "PPM", "TGA", "WEBP", "JPEG", "GIF"])
def test_formats_keep_their_colors(kind: str) -> None:
    options = {"lossless": True} if kind == "WEBP" else {"quality": 95} if kind == "JPEG" else {}
    pixels = _pixels(_file(_halves(), kind, **options))
    assert np.abs(pixels[2, 8] - _ORANGE).max() <= 3
    assert np.abs(pixels[13, 8] - _BLUE).max() <= 3


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("kind", ["JPEG", "PNG", "TIFF"])
def test_pictures_are_turned_upright(orientation: int, kind: str) -> None:
    transpositions = (None, None, 0, 3, 1, 5, 2, 6, 4)  # Pillow's transpositions that make each orientation
    upright = _halves()
    upright.paste((255, 255, 255), (0, 0, 16, 8))
    number = transpositions[orientation]
    stored = upright if number is None else upright.transpose(Image.Transpose(number))
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = orientation
    options = {"quality": 95, "subsampling": 0} if kind == "JPEG" else {}
    assert np.abs(_pixels(_file(stored, kind, exif=exif, **options)) - _pixels(_file(upright))).mean() < 3


def test_damaged_exif_tags_do_not_prevent_the_rotation() -> None:
    """ImageOps.exif_transpose would fail: it rewrites all tags, and this one is text that claims to be a number."""
    upright = _halves()
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = 3
    exif[ExifTags.Base.XResolution] = 72.0
    data = exif.tobytes()
    rational, text = struct.pack(">HH", ExifTags.Base.XResolution, 5), struct.pack(">HH", ExifTags.Base.XResolution, 2)
    assert rational in data
    file = _file(upright.rotate(180), exif=data.replace(rational, text))
    assert (_pixels(file) == _pixels(_file(upright))).all()


def test_transparent_pixels_are_shown_over_white() -> None:
    image = Image.new("RGBA", (16, 16), (0, 0, 0, 0))
    image.paste((200, 0, 0, 128), (8, 0, 16, 16))
    pixels = _pixels(_file(image))
    assert pixels[8, 2].tolist() == [255, 255, 255]
    assert np.abs(pixels[8, 13] - (227, 127, 127)).max() <= 1


def test_transparent_grey_and_palette_pictures_are_shown_over_white() -> None:
    grey = Image.new("LA", (16, 16), (50, 0))
    palette = Image.new("P", (16, 16), 3)
    palette.putpalette([0, 0, 0] * 4)
    color_key = Image.new("RGB", (16, 16), _BLUE)
    for file in (
        _file(grey),
        _file(palette, transparency=3),
        _file(palette, "GIF", transparency=3),
        _file(color_key, transparency=_BLUE),
        _file(Image.new("L", (16, 16), 7), transparency=7),
    ):
        assert (_pixels(file) == 255).all()


def test_palette_grey_and_bilevel_pictures_keep_their_colors() -> None:
    assert np.abs(_pixels(_file(_halves().quantize(4)))[2, 8] - _ORANGE).max() <= 1
    assert (_pixels(_file(Image.new("L", (16, 16), 90))) == 90).all()
    assert (_pixels(_file(Image.new("1", (16, 16), 1))) == 255).all()


@pytest.mark.parametrize("kind", ["PNG", "TIFF"])
def test_sixteen_bit_greys_are_scaled_not_clipped(kind: str) -> None:
    values = np.linspace(0, 65535, 256).round().astype(np.uint16).repeat(256).reshape(256, 256).T
    rules = PictureRules(resolution_px=256, min_side_px=8, max_megapixels=1.0, crop="center")
    pixels = np.asarray(read_picture(_file(Image.fromarray(values), kind), rules))
    assert (pixels[:, :, 0] == np.arange(256)).all()


def test_sixteen_bit_pgm_and_transparent_grey_are_scaled() -> None:
    assert (_pixels(b"P5 16 16 65535\n" + b"\x80\x80" * 256) == 128).all()
    grey = Image.fromarray(np.full((16, 16), 4660, np.uint16))
    assert (_pixels(_file(grey, transparency=4660)) == 255).all()


def test_sixteen_bit_colors_are_scaled() -> None:
    row = b"\0" + struct.pack(">HHH", 65535, 32896, 0) * 16
    header = struct.pack(">IIBBBBB", 16, 16, 16, 2, 0, 0, 0)
    chunks = _png_chunk(b"IHDR", header) + _png_chunk(b"IDAT", zlib.compress(row * 16)) + _png_chunk(b"IEND", b"")
    assert (_pixels(b"\x89PNG\r\n\x1a\n" + chunks) == (255, 128, 0)).all()


def test_cmyk_is_converted_to_rgb() -> None:
    cyan = Image.new("CMYK", (16, 16), (255, 0, 0, 0))
    assert np.abs(_pixels(_file(cyan, "JPEG", quality=100)) - (0, 255, 255)).max() <= 2
    assert (_pixels(_file(cyan, "TIFF")) == (0, 255, 255)).all()


def test_an_srgb_profile_keeps_the_colors() -> None:
    srgb = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    orange = Image.new("RGB", (16, 16), _ORANGE)
    assert np.abs(_pixels(_file(orange, icc_profile=srgb)) - _ORANGE).max() <= 1


def test_a_profile_with_other_primaries_changes_the_colors() -> None:
    """sRGB with the columns of red and green exchanged: what is stored as orange is shown as its green counterpart."""
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    exchanged = profile.replace(b"rXYZ", b"____").replace(b"gXYZ", b"rXYZ").replace(b"____", b"gXYZ")
    red, green, blue = _ORANGE
    pixels = _pixels(_file(Image.new("RGB", (16, 16), _ORANGE), icc_profile=exchanged))
    assert np.abs(pixels - (green, red, blue)).max() <= 2


@pytest.mark.parametrize("kind", ["no profile", "LAB"])
def test_a_color_profile_that_is_broken_or_does_not_fit_is_ignored(kind: str) -> None:
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("LAB")).tobytes() if kind == "LAB" else b"no profile"
    orange = Image.new("RGB", (16, 16), _ORANGE)
    assert (_pixels(_file(orange, icc_profile=profile)) == _ORANGE).all()


@pytest.mark.parametrize(("crop", "top"), [("center", (240, 120, 20)), ("top", (255, 255, 255))])
def test_a_tall_picture_is_cropped_by_the_rule(crop: Any, top: tuple[int, int, int]) -> None:
    tall = Image.new("RGB", (32, 96), _BLUE)
    tall.paste((255, 255, 255), (0, 0, 32, 32))
    tall.paste(_ORANGE, (0, 32, 32, 64))
    rules = PictureRules(resolution_px=16, min_side_px=8, max_megapixels=1.0, crop=crop)
    assert _pixels(_file(tall), rules)[8, 8].tolist() == list(top)


@pytest.mark.parametrize("crop", ["center", "top"])
def test_a_wide_picture_keeps_its_middle_by_either_rule(crop: Any) -> None:
    wide = Image.new("RGB", (96, 32), _BLUE)
    wide.paste(_ORANGE, (32, 0, 64, 32))
    rules = PictureRules(resolution_px=16, min_side_px=8, max_megapixels=1.0, crop=crop)
    assert _pixels(_file(wide), rules)[8, 8].tolist() == list(_ORANGE)


def test_scaling_averages_fine_patterns() -> None:
    checkers = Image.fromarray((np.indices((128, 128)).sum(axis=0) % 2 * 255).astype(np.uint8))
    assert np.abs(_pixels(_file(checkers)) - 127.5).max() < 3


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "BMP", "TIFF", "WEBP"])
def test_truncated_files_are_rejected(kind: str) -> None:
    noise = Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8))
    file = _file(noise, kind)
    error = _rejected(file[: len(file) * 6 // 10])
    assert error.reason in ("truncated", "broken")
    assert error.detail
    if kind in ("PNG", "JPEG", "BMP"):
        assert error.reason == "truncated"


@pytest.mark.parametrize("file", [b"", b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff\xe0", b"GIF89a", b"not a picture" * 99])
def test_files_that_are_no_pictures_are_rejected(file: bytes) -> None:
    assert _rejected(file).reason in ("broken", "truncated")


def test_a_pointer_of_git_lfs_is_named(tmp_path: Path) -> None:
    pointer = b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n"
    (tmp_path / "a.png").write_bytes(pointer)
    for file in (pointer, tmp_path / "a.png"):
        assert "`git lfs pull`" in _rejected(file).detail


def test_a_damaged_picture_is_rejected() -> None:
    file = bytearray(_file(Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8))))
    file[1000:1100] = bytes(100)
    assert _rejected(bytes(file)).reason == "broken"


def test_formats_that_start_programs_are_not_opened() -> None:
    assert _rejected(_file(_halves(), "EPS")).reason == "broken"


def test_small_pictures_are_rejected() -> None:
    error = _rejected(_file(Image.new("RGB", (40, 7))))
    assert (error.reason, error.detail) == ("too_small", "40 x 7 px is below ingest.min_side_px (8)")


@pytest.mark.parametrize("kind", ["GIF", "PNG", "WEBP", "TIFF"])
def test_animated_pictures_are_rejected(kind: str) -> None:
    file = _file(_halves(), kind, save_all=True, append_images=[Image.new("RGB", (32, 32), _BLUE)])
    assert (_rejected(file).reason, _rejected(file).detail) == ("animated", "2 frames")


def test_a_photograph_with_a_second_view_is_not_an_animation() -> None:
    file = _file(_halves(), "MPO", save_all=True, append_images=[Image.new("RGB", (32, 32), _BLUE)], quality=95)
    assert np.abs(_pixels(file)[2, 8] - _ORANGE).max() <= 8


def test_a_decompression_bomb_is_rejected_by_its_header() -> None:
    bomb = _rejected(_png_header(60_000, 60_000))
    assert bomb.reason == "oversized"
    assert bomb.detail == "60000 x 60000 px is 3600 megapixels, above ingest.max_megapixels (1)"
    assert _rejected(_file(Image.new("1", (1001, 1000)))).reason == "oversized"


def test_a_compressed_text_bomb_in_a_picture_is_rejected() -> None:
    text = _png_chunk(b"zTXt", b"Comment\0\0" + zlib.compress(bytes(100_000_000)))
    file = _file(_halves())
    assert _rejected(file[:33] + text + file[33:]).reason == "broken"


def test_pillows_size_limit_is_restored() -> None:
    limit = Image.MAX_IMAGE_PIXELS
    _rejected(_png_header(60_000, 60_000))
    assert limit == Image.MAX_IMAGE_PIXELS


def test_values_without_a_known_white_level_are_rejected() -> None:
    assert _rejected(_file(Image.new("F", (16, 16), 0.5), "TIFF")).reason == "unsupported"
    deep = Image.fromarray(np.full((16, 16), 70_000, np.int32))
    assert _rejected(_file(deep, "TIFF")).reason == "unsupported"


def test_a_folder_or_a_missing_file_is_broken(tmp_path: Path) -> None:
    assert _rejected(tmp_path).reason == "broken"
    assert _rejected(tmp_path / "none.png").reason == "broken"


def _tiff(values: NDArray[np.uint16], **tags: int) -> bytes:
    """An uncompressed grey TIFF of 16-bit samples with these tags."""
    directory = ImageFileDirectory_v2()
    for name, value in tags.items():
        directory[{"photometric": 262}[name]] = value
    return _file(Image.fromarray(values), "TIFF", tiffinfo=directory)


def _tiff_12_bit(grey: int, *, side_px: int = 16) -> bytes:
    """A TIFF whose samples are all `grey`, of 4095, packed without padding."""
    pair = bytes([grey >> 4, (grey & 15) << 4 | grey >> 8, grey & 255])
    strip = pair * (side_px * side_px // 2)
    tags = [(256, side_px), (257, side_px), (258, 12), (259, 1), (262, 1), (273, 8), (277, 1), (278, side_px)]
    tags.append((279, len(strip)))
    entries = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in tags)
    return struct.pack("<2sHI", b"II", 42, 8 + len(strip)) + strip + struct.pack("<H", len(tags)) + entries + bytes(4)


@pytest.mark.parametrize("grey", [0, 1000, 2048, 4095])
def test_grey_values_of_12_bits_are_scaled_by_their_own_white(grey: int) -> None:
    assert np.abs(_pixels(_tiff_12_bit(grey)) - 255 * grey / 4095).max() <= 1


@pytest.mark.parametrize(("photometric", "expected"), [(0, 191), (1, 64)])
def test_a_16_bit_tiff_whose_zero_is_white_is_no_negative(photometric: int, expected: int) -> None:
    values = np.full((16, 16), 64 * 257, np.uint16)
    assert (_pixels(_tiff(values, photometric=photometric)) == expected).all()


def _swapped_profile() -> bytes:
    """sRGB whose red and blue primaries are exchanged."""
    profile = bytearray(ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes())
    tags = {bytes(profile[at : at + 4]): at for at in range(132, 132 + 12 * profile[131], 12)}
    red, blue = tags[b"rXYZ"], tags[b"bXYZ"]
    profile[red : red + 4], profile[blue : blue + 4] = profile[blue : blue + 4], profile[red : red + 4]
    return bytes(profile)


def test_the_profile_of_a_palette_picture_is_used() -> None:
    image, profile = _halves(), _swapped_profile()
    in_rgb = _pixels(_file(image, icc_profile=profile))
    in_palette = _pixels(_file(image.quantize(2), icc_profile=profile))
    assert np.abs(in_rgb - in_palette).max() <= 2
    assert np.abs(in_rgb - _pixels(_file(image))).max() > 50


@pytest.mark.parametrize("options", [{}, {"progressive": True}, {"restart_marker_blocks": 4}, {"optimize": True}])
@pytest.mark.parametrize("mode", ["RGB", "L", "CMYK"])
@pytest.mark.parametrize("part", [0.3, 0.95])
def test_half_a_jpeg_is_truncated_although_it_ends_with_a_marker(
    options: dict[str, Any], mode: str, part: float
) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (96, 64, 3), np.uint8)
    content = _file(Image.fromarray(noise).convert(mode), "JPEG", quality=90, **options)
    read_picture(content, _RULES)
    cut = content.index(b"\xff\xda") + 14
    half = content[: cut + round(part * (len(content) - cut))].rstrip(b"\xff") + b"\xff\xd9"
    assert _rejected(half).reason in ("truncated", "broken")


@pytest.mark.parametrize("color", [0, 127, 128, 129, 255])
@pytest.mark.parametrize("trailer", [b"", b"\xff\xd8\xff\xd9 a second picture"])
def test_a_whole_jpeg_that_ends_grey_is_taken(color: int, trailer: bytes) -> None:
    for is_progressive in (False, True):
        content = _file(Image.new("RGB", (33, 17), (color,) * 3), "JPEG", progressive=is_progressive)
        assert (_pixels(content + trailer) == color).all()


@pytest.mark.parametrize("exif", [b"", b"II", b"no TIFF file", b"II*\0\xff\xff\xff\xff"])
def test_a_png_with_damaged_exif_data_is_taken(exif: bytes) -> None:
    content = _file(_halves())
    end_of_header = 8 + 25
    damaged = content[:end_of_header] + _png_chunk(b"eXIf", exif) + content[end_of_header:]
    assert np.array_equal(_pixels(damaged), _pixels(content))
