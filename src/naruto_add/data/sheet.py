"""A contact sheet: pictures spread over the whole data set, each with its caption."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

from naruto_add.files import new_file

_FONT = Path(__file__).parents[1] / "grid_font.ttf"
_FONT_PX = 12
_COLUMNS, _MAX_PICTURES = 8, 48
_PICTURE_PX, _GAP_PX = 144, 8
_LINE_PX, _NUM_LINES = 15, 5
_CELL_PX = (_PICTURE_PX + _GAP_PX, _PICTURE_PX + _NUM_LINES * _LINE_PX + _GAP_PX)


def draw_sheet(dataset_dir: Path, rows: Sequence[Mapping[str, str]], *, sheet_path: Path) -> None:
    """Writes a PNG with up to 48 of the rows' pictures, evenly spaced, above their captions and splits."""
    num_pictures = min(len(rows), _MAX_PICTURES)
    shown = [rows[number * len(rows) // num_pictures] for number in range(num_pictures)]
    num_rows = -(-num_pictures // _COLUMNS)
    sheet = Image.new("RGB", (_COLUMNS * _CELL_PX[0] + _GAP_PX, num_rows * _CELL_PX[1] + _GAP_PX), "white")
    font = ImageFont.truetype(_FONT, _FONT_PX)
    for number, row in enumerate(shown):
        x = _GAP_PX + number % _COLUMNS * _CELL_PX[0]
        y = _GAP_PX + number // _COLUMNS * _CELL_PX[1]
        with Image.open(dataset_dir / row["file_name"]) as image:
            sheet.paste(image.resize((_PICTURE_PX, _PICTURE_PX), Image.Resampling.LANCZOS), (x, y))
        lines = _wrapped(f"{row['split']}: {row['text']}", font)
        ImageDraw.Draw(sheet).multiline_text((x, y + _PICTURE_PX), lines, fill="black", font=font, spacing=2)
    with new_file(sheet_path) as partial:
        sheet.save(partial)


def _wrapped(text: str, font: ImageFont.FreeTypeFont) -> str:
    """The text in as many lines as there is room for, its end shown by an ellipsis where there is not."""
    lines = [""]
    for word in text.split():
        longer = f"{lines[-1]} {word}".strip()
        if font.getlength(longer) <= _PICTURE_PX or not lines[-1]:
            lines[-1] = longer
        else:
            lines.append(word)
    shown = lines[:_NUM_LINES]
    if len(lines) > _NUM_LINES:
        shown[-1] += " …"
    return "\n".join(_cut(line, font) for line in shown)


def _cut(line: str, font: ImageFont.FreeTypeFont) -> str:
    while font.getlength(line) > _PICTURE_PX:
        line = line[:-2].rstrip(" …") + "…"
    return line
