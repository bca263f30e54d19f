"""A contact sheet: evenly spaced pictures of the data set with their splits, captions and words that are cut off."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from PIL import Image

from naruto_add.imaging.grid import INK, PAPER, draw_text, fit_cell, line_px, load_font, png_info
from naruto_add.runtime.files import new_file

FONT_PX = 12
LOST_INK = "#b3261e"
NUM_LINES = 5
NUM_COLUMNS, MAX_PICTURES = 8, 48
PICTURE_PX, GAP_PX = 144, 8
MAX_LOST = 40
"""Letters of the words that a caption loses; more would leave no room for the caption."""


def draw_sheet(
    dataset_dir: Path, rows: Sequence[Mapping[str, Any]], *, lost: Mapping[str, str], sheet_path: Path
) -> None:
    """Writes a PNG with up to 48 of the rows' pictures, evenly spaced, above their splits and captions.

    `lost` is, by caption, the end that exceeds the model's limit. Such a caption is red and follows the first words of
    that end. The PNG's text chunk `captions` holds the captions in full, and `lost` the ends, if the sheet shows any.
    """
    font = load_font(FONT_PX)
    width_px, height_px = PICTURE_PX + GAP_PX, PICTURE_PX + NUM_LINES * line_px(font) + GAP_PX
    num_pictures = min(len(rows), MAX_PICTURES)
    num_rows = -(-num_pictures // NUM_COLUMNS)
    sheet = Image.new("RGB", (NUM_COLUMNS * width_px + GAP_PX, num_rows * height_px + GAP_PX), PAPER)
    shown = [rows[number * len(rows) // num_pictures] for number in range(num_pictures)]
    for number, row in enumerate(shown):
        left, top = GAP_PX + number % NUM_COLUMNS * width_px, GAP_PX + number // NUM_COLUMNS * height_px
        with Image.open(dataset_dir / row["file_name"]) as image:
            sheet.paste(fit_cell(image, PICTURE_PX), (left, top))
        end = lost.get(row["text"])
        text = f"{row['split']}: {row['text']}" if end is None else f"{row['split']}, {_marked(end)}: {row['text']}"
        at = (left, top + PICTURE_PX)
        color = INK if end is None else LOST_INK
        draw_text(sheet, text, at=at, width_px=PICTURE_PX, max_lines=NUM_LINES, font=font, color=color)
    captions = [row["text"] for row in shown]
    shown_lost = {caption: lost[caption] for caption in captions if caption in lost}
    with new_file(sheet_path) as partial:
        sheet.save(partial, pnginfo=png_info({"captions": captions} | ({"lost": shown_lost} if shown_lost else {})))


def _marked(end: str) -> str:
    return f"not seen by the model “{end if len(end) <= MAX_LOST else end[:MAX_LOST] + '…'}”"
