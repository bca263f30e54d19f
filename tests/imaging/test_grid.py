"""Grids: positions of images, wrapped labels, and metadata in the PNG file."""

import json
from pathlib import Path

import pytest
import torch
from PIL import Image, ImageFont

from naruto_add.imaging import grid
from naruto_add.imaging.grid import (
    FONT,
    GAP_PX,
    GridColumn,
    GridRow,
    draw_grid,
    fit_cell,
    make_grid,
    to_images,
    wrap,
)

COLUMNS = [GridColumn("teacher", "100 steps"), GridColumn("distilled", "4 steps")]
RED, BLUE = Image.new("RGB", (8, 8), "red"), Image.new("RGB", (8, 8), "blue")


def test_images_are_in_their_cells() -> None:
    grid = draw_grid([GridRow("one", [RED, BLUE]), GridRow("two", [BLUE, RED])], columns=COLUMNS, cell_px=32)
    header_px = grid.height - 2 * (32 + GAP_PX)
    centre = [
        (32 + GAP_PX + 16 + (32 + GAP_PX) * x, header_px + 16 + (32 + GAP_PX) * y) for y in (0, 1) for x in (0, 1)
    ]
    assert [grid.getpixel(at) for at in centre] == [(255, 0, 0), (0, 0, 255), (0, 0, 255), (255, 0, 0)]


def test_the_file_has_captions_columns_and_metadata(tmp_path: Path) -> None:
    path = tmp_path / "grids" / "grid.png"
    make_grid([GridRow("élève à Œuvre", [RED, BLUE])], columns=COLUMNS, cell_px=32, path=path, metadata={"seed": 3})
    with Image.open(path) as grid:
        assert json.loads(grid.text["captions"]) == ["élève à Œuvre"]
        assert json.loads(grid.text["columns"]) == ["teacher: 100 steps", "distilled: 4 steps"]
        assert grid.text["seed"] == "3"


@pytest.mark.parametrize(
    ("rows", "message"),
    [([], "a grid needs at least one row"), ([GridRow("one", [RED])], "'one' has 1 images for 2 columns")],
)
def test_grids_need_rows_with_one_image_per_column(tmp_path: Path, rows: list[GridRow], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make_grid(rows, columns=COLUMNS, cell_px=32, path=tmp_path / "grid.png", metadata={})
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("letter", "éàçùœŒñßøłžÉÄ’—…«»")
def test_the_font_has_accented_letters(letter: str) -> None:
    font = ImageFont.truetype(FONT, 16)
    missing = bytes(font.getmask("\U0001f9ff"))
    assert bytes(font.getmask(letter)) != missing


def test_wrapped_lines_fit_the_width_and_keep_the_text() -> None:
    font = ImageFont.truetype(FONT, 14)
    text = "a man with white hair and a sword in Llanfairpwllgwyngyllgogerychwyrndrobwllllantysiliogogogoch"
    lines = wrap(text, font=font, width_px=90, max_lines=20)
    assert all(font.getlength(line) <= 90 for line in lines)
    assert "".join(lines).replace(" ", "") == text.replace(" ", "")
    short = wrap(text, font=font, width_px=90, max_lines=2)
    assert len(short) == 2
    assert short[-1].endswith("…")
    assert font.getlength(short[-1]) <= 90


def test_cells_keep_the_aspect_ratio() -> None:
    cell = fit_cell(Image.new("RGB", (20, 10), "red"), 40)
    assert cell.size == (40, 40)
    assert cell.getpixel((20, 5)) == (255, 255, 255)
    assert cell.getpixel((20, 20)) == (255, 0, 0)


def test_an_integer_scale_repeats_pixels() -> None:
    image = Image.frombytes("RGB", (2, 2), bytes(range(12)))
    cell = fit_cell(image, 4)
    assert [cell.getpixel((x, 0)) for x in range(4)] == [(0, 1, 2)] * 2 + [(3, 4, 5)] * 2


def test_pixels_become_pillow_images() -> None:
    pixels = torch.tensor([-1.0, 0.0, 1.0]).view(1, 3, 1, 1)
    assert to_images(pixels)[0].getpixel((0, 0)) == (0, 128, 255)


@pytest.mark.parametrize("text", ["忍者", "닌자", "نينجا", "🥷", "a 忍"])
def test_letters_that_the_font_lacks_are_boxes_and_never_blank(text: str) -> None:
    known = text.encode("ascii", "ignore").decode() or " "
    drawn = []
    for each in (text, known):
        image = Image.new("RGB", (200, 40), "white")
        grid.draw_text(image, each, at=(4, 4), width_px=190, max_lines=1, font=grid.load_font(16))
        drawn.append(image.tobytes())
    assert drawn[0] != drawn[1]
