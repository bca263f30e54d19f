"""Labelled grids of pictures: a row for every prompt, a column for every subject, the same initial noise in a row."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jaxtyping import Float
from PIL import Image, ImageDraw, ImageFont
from PIL.PngImagePlugin import PngInfo
from torch import Tensor

from naruto_add.files import new_file

FONT = Path(__file__).with_name("grid_font.ttf")
"""Part of DejaVu Sans Condensed, with accents: Pillow's own font has none."""
CELL_PX = 192
GAP_PX = 6
INK, FAINT, PAPER = "#1b1b1f", "#6f6f78", "#ffffff"


@dataclass(frozen=True)
class GridColumn:
    """A column's heading, and what stands under it in grey."""

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
    size = max(12, cell_px // 11)
    font = ImageFont.truetype(FONT, size)
    caption_px, header_px, pitch = cell_px, round(3.2 * size), cell_px + GAP_PX
    grid = Image.new("RGB", (caption_px + pitch * len(columns) + GAP_PX, header_px + pitch * len(rows)), PAPER)
    draw = ImageDraw.Draw(grid)
    for index, column in enumerate(columns):
        left = caption_px + pitch * index + GAP_PX
        draw.text((left, size // 2), column.name, INK, font)
        draw.text((left, size // 2 + round(1.25 * size)), column.note, FAINT, font)
    for index, row in enumerate(rows):
        top = header_px + pitch * index
        _draw_caption(draw, row.caption, font, (GAP_PX, top), (caption_px - GAP_PX, cell_px))
        for position, image in enumerate(row.images):
            grid.paste(fit_cell(image, cell_px), (caption_px + pitch * position + GAP_PX, top))
    return grid


def fit_cell(image: Image.Image, cell_px: int) -> Image.Image:
    """The whole picture scaled into a square, its proportions kept."""
    scale = cell_px / max(image.size)
    size = (max(1, round(image.width * scale)), max(1, round(image.height * scale)))
    cell = Image.new("RGB", (cell_px, cell_px), PAPER)
    resized = image.convert("RGB").resize(size, Image.Resampling.LANCZOS)
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


def to_images(pixels: Float[Tensor, "batch 3 height width"]) -> list[Image.Image]:
    """Pictures of pixels in [-1, 1]."""
    whole = ((pixels.clamp(-1, 1) + 1) * 127.5).round().byte().permute(0, 2, 3, 1).cpu().numpy()
    return [Image.fromarray(picture) for picture in whole]


def _refuse_ragged(rows: Sequence[GridRow], columns: Sequence[GridColumn]) -> None:
    if not rows:
        raise ValueError("a grid needs at least one row")
    for row in rows:
        if len(row.images) != len(columns):
            raise ValueError(f"{row.caption!r} has {len(row.images)} pictures for {len(columns)} columns")


def _draw_caption(
    draw: ImageDraw.ImageDraw, text: str, font: ImageFont.FreeTypeFont, at: tuple[int, int], box: tuple[int, int]
) -> None:
    line_px = round(1.3 * font.size)
    lines = wrap(text, font=font, width_px=box[0] - GAP_PX, max_lines=max(1, box[1] // line_px))
    top = at[1] + (box[1] - line_px * len(lines)) // 2
    for index, line in enumerate(lines):
        draw.text((at[0], top + line_px * index), line, INK, font)


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
