"""Labelled grids of images, and the functions that draw their text and cells. This module does not import torch."""

import json
import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jaxtyping import Float
from PIL import Image, ImageDraw, ImageFont
from PIL.PngImagePlugin import PngInfo

from naruto_add.imaging.pixels import to_uint8
from naruto_add.runtime.files import new_file

if TYPE_CHECKING:
    from torch import Tensor

FONT = Path(__file__).with_name("grid_font.ttf")
"""A subset of DejaVu Sans Condensed that has accented letters, which Pillow's built-in font lacks."""
CELL_PX = 192
GAP_PX = 6
INK, FAINT, PAPER = "#1b1b1f", "#6f6f78", "#ffffff"


@dataclass(frozen=True)
class GridColumn:
    """A column's heading, and the grey note under it; the heading may take two lines if the note is empty."""

    name: str
    note: str


@dataclass(frozen=True)
class GridRow:
    """A caption and its images, one per column."""

    caption: str
    images: Sequence[Image.Image]


def make_grid(
    rows: Sequence[GridRow], *, columns: Sequence[GridColumn], cell_px: int, path: Path, metadata: Mapping[str, Any]
) -> None:
    """Save the grid as a PNG whose text chunks hold its captions, its columns and `metadata`.

    Raises ValueError if there are no rows, or if a row does not have one image per column.
    """
    _check_shape(rows, columns)
    text = {"captions": [row.caption for row in rows], "columns": [f"{item.name}: {item.note}" for item in columns]}
    with new_file(path) as partial:
        draw_grid(rows, columns=columns, cell_px=cell_px).save(partial, pnginfo=png_info(text | dict(metadata)))


def draw_grid(rows: Sequence[GridRow], *, columns: Sequence[GridColumn], cell_px: int) -> Image.Image:
    """The grid as an image: captions wrapped at the left, headings at the top, images in squares of `cell_px`."""
    font = load_font(max(12, cell_px // 11))
    header_px, pitch = round(3.2 * font.size), cell_px + GAP_PX
    grid = Image.new("RGB", (cell_px + pitch * len(columns) + GAP_PX, header_px + pitch * len(rows)), PAPER)
    for index, column in enumerate(columns):
        left = cell_px + pitch * index + GAP_PX
        _draw_heading(grid, column, left=left, width_px=cell_px, font=font)
    for index, row in enumerate(rows):
        top = header_px + pitch * index
        _draw_caption(grid, row.caption, top=top, side_px=cell_px, font=font)
        for position, image in enumerate(row.images):
            grid.paste(fit_cell(image, cell_px), (cell_px + pitch * position + GAP_PX, top))
    return grid


def load_font(size_px: int) -> ImageFont.FreeTypeFont:
    """The project's font at this size."""
    return ImageFont.truetype(FONT, size_px)


def line_px(font: ImageFont.FreeTypeFont) -> int:
    """Distance from one line of text to the next."""
    return round(1.3 * font.size)


def draw_text(
    image: Image.Image,
    text: str,
    *,
    at: tuple[int, int],
    width_px: int,
    max_lines: int,
    font: ImageFont.FreeTypeFont,
    color: str = INK,
) -> None:
    """Draw wrapped text with its upper left corner at `at`; text that does not fit ends in an ellipsis.

    A letter that the font lacks is drawn as a box.
    """
    for index, line in enumerate(wrap(text, font=font, width_px=width_px, max_lines=max_lines)):
        _draw_line(image, line, at=(at[0], at[1] + index * line_px(font)), font=font, color=color)


def fit_cell(image: Image.Image, cell_px: int) -> Image.Image:
    """The image in a white square, its aspect ratio kept. An integer scale repeats pixels instead of interpolating."""
    scale = cell_px / max(image.size)
    size = (max(1, round(image.width * scale)), max(1, round(image.height * scale)))
    cell = Image.new("RGB", (cell_px, cell_px), PAPER)
    is_integer_scale = cell_px % max(image.size) == 0
    resampling = Image.Resampling.NEAREST if is_integer_scale else Image.Resampling.LANCZOS
    resized = image.convert("RGB").resize(size, resampling)
    cell.paste(resized, ((cell_px - size[0]) // 2, (cell_px - size[1]) // 2))
    return cell


def wrap(text: str, *, font: ImageFont.FreeTypeFont, width_px: int, max_lines: int) -> list[str]:
    """Lines no wider than `width_px`, broken at spaces, or inside a word that is wider than a line.

    If there are more than `max_lines`, the last one ends in an ellipsis.
    """
    lines: list[str] = []
    for word in _words(text, font, width_px):
        joined = f"{lines[-1]} {word}" if lines else word
        if lines and font.getlength(joined) <= width_px:
            lines[-1] = joined
        else:
            lines.append(word)
    if len(lines) <= max_lines:
        return lines
    last = lines[max_lines - 1]
    while last and font.getlength(f"{last}…") > width_px:
        last = last[:-1]
    return [*lines[: max_lines - 1], f"{last.rstrip()}…"]


def to_images(pixels: "Float[Tensor, 'batch 3 height width']") -> list[Image.Image]:
    """Pixels in [-1, 1] as Pillow images."""
    return [Image.fromarray(image) for image in to_uint8(pixels)]


def _check_shape(rows: Sequence[GridRow], columns: Sequence[GridColumn]) -> None:
    if not rows:
        raise ValueError("a grid needs at least one row")
    for row in rows:
        if len(row.images) != len(columns):
            raise ValueError(f"{row.caption!r} has {len(row.images)} images for {len(columns)} columns")


def _draw_heading(
    grid: Image.Image, column: GridColumn, *, left: int, width_px: int, font: ImageFont.FreeTypeFont
) -> None:
    name_at, note_at = (left, round(font.size / 2)), (left, round(1.75 * font.size))
    max_lines = 1 if column.note else 2
    draw_text(grid, column.name, at=name_at, width_px=width_px, max_lines=max_lines, font=font)
    draw_text(grid, column.note, at=note_at, width_px=width_px, max_lines=1, font=font, color=FAINT)


def _draw_caption(grid: Image.Image, text: str, *, top: int, side_px: int, font: ImageFont.FreeTypeFont) -> None:
    """Draw a row's caption, vertically centred."""
    width_px, max_lines = side_px - 2 * GAP_PX, max(1, side_px // line_px(font))
    num_lines = len(wrap(text, font=font, width_px=width_px, max_lines=max_lines))
    middle = top + (side_px - line_px(font) * num_lines) // 2
    draw_text(grid, text, at=(GAP_PX, middle), width_px=width_px, max_lines=max_lines, font=font)


def _draw_line(image: Image.Image, line: str, *, at: tuple[int, int], font: ImageFont.FreeTypeFont, color: str) -> None:
    draw = ImageDraw.Draw(image)
    if not any(_is_missing(char, font) for char in line):
        draw.text(at, line, color, font)
        return
    left: float = at[0]
    for char in line:
        width_px = font.getlength(char)
        if _is_missing(char, font):
            top, inset = at[1] + round(0.3 * font.size), max(1, round(width_px / 8))
            draw.rectangle((round(left) + inset, top, round(left + width_px) - inset, at[1] + font.size), None, color)
        else:
            draw.text((left, at[1]), char, color, font)
        left += width_px


def _is_missing(char: str, font: ImageFont.FreeTypeFont) -> bool:
    """Whether the font shows nothing for a letter or symbol; marks that join or modify letters need no box."""
    is_shown = unicodedata.category(char)[0] in "LNPS" or unicodedata.category(char) in ("Co", "Cn")
    return is_shown and font.getmask(char).getbbox() is None


def _words(text: str, font: ImageFont.FreeTypeFont, width_px: int) -> list[str]:
    """The words of a text; a word that is wider than a line is split into pieces that are not."""
    words: list[str] = []
    for word in text.split():
        piece = ""
        for letter in word:
            if piece and font.getlength(piece + letter) > width_px:
                words.append(piece)
                piece = ""
            piece += letter
        words.append(piece)
    return words


def png_info(text: Mapping[str, Any]) -> PngInfo:
    """Text chunks for a PNG: strings as they are, other values as JSON."""
    info = PngInfo()
    for key in sorted(text):
        value = text[key]
        info.add_itxt(key, value if isinstance(value, str) else json.dumps(value, ensure_ascii=False))
    return info
