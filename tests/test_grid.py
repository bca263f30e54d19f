"""Grids: what stands where, labels that can be read, metadata that says how to draw them again."""

import json
from pathlib import Path

import pytest
import torch
from PIL import Image, ImageFont

from naruto_add.diffusion.bundle import ModelBundle
from naruto_add.grid import (
    CELL_PX,
    FONT,
    GAP_PX,
    GridColumn,
    GridRow,
    draw_grid,
    fit_cell,
    make_grid,
    make_sample_grids,
    to_images,
    wrap,
)
from naruto_add.params import Base, Samples, Sampling

COLUMNS = [GridColumn("teacher", "100 steps"), GridColumn("distilled", "4 steps")]
RED, BLUE = Image.new("RGB", (8, 8), "red"), Image.new("RGB", (8, 8), "blue")


def test_pictures_stand_in_their_cells() -> None:
    grid = draw_grid([GridRow("one", [RED, BLUE]), GridRow("two", [BLUE, RED])], columns=COLUMNS, cell_px=32)
    header_px = grid.height - 2 * (32 + GAP_PX)
    centre = [
        (32 + GAP_PX + 16 + (32 + GAP_PX) * x, header_px + 16 + (32 + GAP_PX) * y) for y in (0, 1) for x in (0, 1)
    ]
    assert [grid.getpixel(at) for at in centre] == [(255, 0, 0), (0, 0, 255), (0, 0, 255), (255, 0, 0)]


def test_metadata_is_in_the_file(tmp_path: Path) -> None:
    path = tmp_path / "grids" / "grid.png"
    make_grid([GridRow("élève à Œuvre", [RED, BLUE])], columns=COLUMNS, cell_px=32, path=path, metadata={"seed": 3})
    with Image.open(path) as grid:
        assert json.loads(grid.text["captions"]) == ["élève à Œuvre"]
        assert json.loads(grid.text["columns"]) == ["teacher: 100 steps", "distilled: 4 steps"]
        assert grid.text["seed"] == "3"


@pytest.mark.parametrize("rows", [[], [GridRow("one", [RED])]])
def test_ragged_grids_are_refused(tmp_path: Path, rows: list[GridRow]) -> None:
    with pytest.raises(ValueError, match=r"row|pictures"):
        make_grid(rows, columns=COLUMNS, cell_px=32, path=tmp_path / "grid.png", metadata={})


@pytest.mark.parametrize("letter", "éàçùœŒñßøłžÉÄ’—…«»")
def test_font_has_accents(letter: str) -> None:
    font = ImageFont.truetype(FONT, 16)
    missing = bytes(font.getmask("\U0001f9ff"))
    assert bytes(font.getmask(letter)) != missing


def test_lines_are_no_wider_than_asked() -> None:
    font = ImageFont.truetype(FONT, 14)
    text = "a man with white hair and a sword in Llanfairpwllgwyngyllgogerychwyrndrobwllllantysiliogogogoch"
    lines = wrap(text, font=font, width_px=90, max_lines=20)
    assert all(font.getlength(line) <= 90 for line in lines)
    assert "".join(lines).replace(" ", "") == text.replace(" ", "")
    short = wrap(text, font=font, width_px=90, max_lines=2)
    assert len(short) == 2
    assert short[-1].endswith("…")
    assert font.getlength(short[-1]) <= 90


def test_proportions_are_kept() -> None:
    cell = fit_cell(Image.new("RGB", (20, 10), "red"), 40)
    assert cell.size == (40, 40)
    assert cell.getpixel((20, 5)) == (255, 255, 255)
    assert cell.getpixel((20, 20)) == (255, 0, 0)


def test_pixels_become_pictures() -> None:
    pixels = torch.tensor([-1.0, 0.0, 1.0]).view(1, 3, 1, 1)
    assert to_images(pixels)[0].getpixel((0, 0)) == (0, 128, 255)


def test_sample_grids_start_from_the_same_noise(
    tiny_bundle: ModelBundle, tiny_pipeline_dir: Path, tmp_path: Path
) -> None:
    unet_dir = tiny_pipeline_dir / "unet"
    prompts = ["a man", "Naruto Uzumaki roule en suzuki"]
    make_sample_grids(
        Samples.model_validate({"seed": 5, "prompts": prompts}),
        base=_base(tiny_pipeline_dir, tiny_bundle),
        sampling=Sampling.model_validate({"teacher_steps": 3, "guidance_scale": 2.0, "student_scheduler": "ddim"}),
        prompt_template="{caption}",
        num_student_steps=2,
        teacher_dir=tiny_pipeline_dir,
        student_dir=unet_dir,
        distilled_dir=unet_dir,
        out_dir=tmp_path / "grids",
    )
    with Image.open(tmp_path / "grids" / "subjects.png") as grid:
        assert json.loads(grid.text["prompts"]) == prompts
        cells = [_cell(grid, column) for column in range(4)]
    assert cells[0] == cells[1]  # base and teacher are one model here, and so are the students
    assert cells[2] == cells[3]
    assert cells[1] != cells[2]
    assert (tmp_path / "grids" / "seeds.png").exists()


def _cell(grid: Image.Image, column: int) -> bytes:
    left = CELL_PX + GAP_PX + (CELL_PX + GAP_PX) * column
    return grid.crop((left, grid.height - CELL_PX - GAP_PX, left + CELL_PX, grid.height - GAP_PX)).tobytes()


def _base(model: Path, bundle: ModelBundle) -> Base:
    side = bundle.unet.config.sample_size * 2 ** (len(bundle.vae.config.block_out_channels) - 1)
    return Base(model=str(model), revision="", variant="", precision="fp32", resolution_px=side)
