"""Labelled grids of pictures, and the text and cells that other sheets of pictures are made of.

It lies low, so that every stage can draw; and it does without torch, so that a stage that draws starts at once.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jaxtyping import Float
from PIL import Image, ImageDraw, ImageFont
from PIL.PngImagePlugin import PngInfo

from naruto_add.files import new_file

if TYPE_CHECKING:
    from torch import Tensor

FONT = Path(__file__).with_name("grid_font.ttf")
"""Part of DejaVu Sans Condensed, with accents: Pillow's own font has none."""
CELL_PX = 192
GAP_PX = 6
INK, FAINT, PAPER = "#1b1b1f", "#6f6f78", "#ffffff"


@dataclass(frozen=True)
class GridColumn:
    """A column's heading, and what stands under it in grey; without a note the heading may have two lines."""

    name: str
    note: str


@dataclass(frozen=True)
class GridRow:
    """A caption and its pictures, one for every column."""

    caption: str
    images: Sequence[Image.Image]


def make_grid(
    rows: Sequence[GridRow], *, columns: Sequence[GridColumn], cell_px: int, path: Path, metadata: Mapping[str, Any]
) -> None:
    """Draw the grid and save it as a PNG with its captions, columns and `metadata` in text chunks.

    Raises ValueError where there are no rows or a row's pictures do not match the columns.
    """
    _refuse_ragged(rows, columns)
    text = {"captions": [row.caption for row in rows], "columns": [f"{item.name}: {item.note}" for item in columns]}
    with new_file(path) as partial:
        draw_grid(rows, columns=columns, cell_px=cell_px).save(partial, pnginfo=_png_info(text | dict(metadata)))


def draw_grid(rows: Sequence[GridRow], *, columns: Sequence[GridColumn], cell_px: int) -> Image.Image:
    """The grid as a picture: captions wrapped at the left, headings at the top, pictures in squares of `cell_px`."""
    font = load_font(max(12, cell_px // 11))
    header_px, pitch = round(3.2 * font.size), cell_px + GAP_PX
    grid = Image.new("RGB", (cell_px + pitch * len(columns) + GAP_PX, header_px + pitch * len(rows)), PAPER)
    for index, column in enumerate(columns):
        left = cell_px + pitch * index + GAP_PX
        draw_text(
            grid,
            column.name,
            at=(left, round(font.size / 2)),
            width_px=cell_px,
            max_lines=1 + (not column.note),
            font=font,
        )
        draw_text(
            grid, column.note, at=(left, round(1.75 * font.size)), width_px=cell_px, max_lines=1, font=font, color=FAINT
        )
    for index, row in enumerate(rows):
        top = header_px + pitch * index
        _draw_caption(grid, row.caption, top=top, side_px=cell_px, font=font)
        for position, image in enumerate(row.images):
            grid.paste(fit_cell(image, cell_px), (cell_px + pitch * position + GAP_PX, top))
    return grid


def load_font(size_px: int) -> ImageFont.FreeTypeFont:
    """The project's font."""
    return ImageFont.truetype(FONT, size_px)


def line_px(font: ImageFont.FreeTypeFont) -> int:
    """From one line of text to the next."""
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
    """Draw wrapped text with its upper left corner `at`, cut off with an ellipsis where it does not fit."""
    draw = ImageDraw.Draw(image)
    for index, line in enumerate(wrap(text, font=font, width_px=width_px, max_lines=max_lines)):
        draw.text((at[0], at[1] + index * line_px(font)), line, color, font)


def fit_cell(image: Image.Image, cell_px: int) -> Image.Image:
    """The whole picture scaled into a square, its proportions kept; by a whole number pixel by pixel, as they are."""
    scale = cell_px / max(image.size)
    size = (max(1, round(image.width * scale)), max(1, round(image.height * scale)))
    cell = Image.new("RGB", (cell_px, cell_px), PAPER)
    is_whole = cell_px % max(image.size) == 0
    filtered = Image.Resampling.NEAREST if is_whole else Image.Resampling.LANCZOS
    resized = image.convert("RGB").resize(size, filtered)
    cell.paste(resized, ((cell_px - size[0]) // 2, (cell_px - size[1]) // 2))
    return cell


def wrap(text: str, *, font: ImageFont.FreeTypeFont, width_px: int, max_lines: int) -> list[str]:
    """Lines no wider than `width_px`: broken at spaces, or within a word too wide alone; cut off with an ellipsis."""
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
    """Pictures of pixels in [-1, 1]."""
    whole = ((pixels.clamp(-1, 1) + 1) * 127.5).round().byte().permute(0, 2, 3, 1).cpu().numpy()
    return [Image.fromarray(picture) for picture in whole]


def _refuse_ragged(rows: Sequence[GridRow], columns: Sequence[GridColumn]) -> None:
    if not rows:
        raise ValueError("a grid needs at least one row")
    for row in rows:
        if len(row.images) != len(columns):
            raise ValueError(f"{row.caption!r} has {len(row.images)} pictures for {len(columns)} columns")


def _draw_caption(grid: Image.Image, text: str, *, top: int, side_px: int, font: ImageFont.FreeTypeFont) -> None:
    """In the middle of its row's height."""
    width_px, max_lines = side_px - 2 * GAP_PX, max(1, side_px // line_px(font))
    num_lines = len(wrap(text, font=font, width_px=width_px, max_lines=max_lines))
    middle = top + (side_px - line_px(font) * num_lines) // 2
    draw_text(grid, text, at=(GAP_PX, middle), width_px=width_px, max_lines=max_lines, font=font)


def _words(text: str, font: ImageFont.FreeTypeFont, width_px: int) -> list[str]:
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


def _png_info(text: Mapping[str, Any]) -> PngInfo:
    info = PngInfo()
    for key in sorted(text):
        value = text[key]
        info.add_itxt(key, value if isinstance(value, str) else json.dumps(value, ensure_ascii=False))
    return info
