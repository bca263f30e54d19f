"""Sample grids: the same noise for every subject, and metadata that says how they were drawn."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
from PIL import Image

from naruto_add.comparison.image_sets import draw_set
from naruto_add.comparison.samples import make_ablation_grid, make_sample_grids
from naruto_add.comparison.subjects import Models, load_subjects
from naruto_add.config.schema import Base, Samples, Sampling, StudentScheduler
from naruto_add.data.dataset import load_split
from naruto_add.imaging.grid import CELL_PX, GAP_PX, fit_cell

TEMPLATE = "{caption}, drawn"
PROMPTS = ["a man", "Naruto Uzumaki roule en suzuki"]
SAMPLES = Samples(
    seed=5, prompts=PROMPTS, num_test_captions=3, steps=[1, 2], interpolate_from="a man", interpolate_to="a girl"
)


@pytest.fixture(scope="module")
def grids(
    tiny_pipeline_dir: Path, tiny_dataset_dir: Path, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, Image.Image]:
    folder = tmp_path_factory.mktemp("samples") / "grids"
    make_sample_grids(SAMPLES, models=_models(tiny_pipeline_dir), dataset_dir=tiny_dataset_dir, out_dir=folder)
    return {path.stem: Image.open(path) for path in folder.iterdir()}


def test_there_are_six_grids(grids: dict[str, Image.Image]) -> None:
    assert set(grids) == {"subjects", "test_captions", "seeds", "steps", "interpolation", "neighbours"}


def test_equal_models_draw_equal_pictures(grids: dict[str, Image.Image]) -> None:
    base, teacher, student, distilled = (_cell(grids["subjects"], column) for column in range(4))

    assert base == teacher
    assert student == distilled
    assert teacher != student


def test_metadata_has_captions_prompts_seeds_models_and_steps(grids: dict[str, Image.Image]) -> None:
    text = {key: json.loads(value) for key, value in grids["subjects"].text.items()}

    assert text["captions"] == PROMPTS
    assert text["prompts"] == ["a man, drawn", "Naruto Uzumaki roule en suzuki, drawn"]
    assert text["seeds"] == [5]
    assert text["models"] == ["base", "teacher", "student before ADD", "distilled"]
    assert text["steps"] == [3, 3, 2, 2]


def test_test_captions_have_the_real_picture_first(grids: dict[str, Image.Image], tiny_dataset_dir: Path) -> None:
    grid, examples = grids["test_captions"], load_split(tiny_dataset_dir, "test", prompt_template=TEMPLATE)[:3]

    assert json.loads(grid.text["captions"]) == [example.caption for example in examples]
    assert json.loads(grid.text["columns"])[0] == "real: test split"
    with Image.open(examples[-1].image_path) as real:
        assert _cell(grid, 0) == fit_cell(real, CELL_PX).tobytes()
    assert _cell(grid, 1) == _cell(grid, 2) != _cell(grid, 3)


def test_steps_are_those_of_the_distilled_student_and_the_teacher(grids: dict[str, Image.Image]) -> None:
    one_step, two_steps, teacher = (_cell(grids["steps"], column) for column in range(3))

    assert json.loads(grids["steps"].text["steps"]) == [1, 2, 3]
    assert json.loads(grids["steps"].text["models"]) == ["distilled", "distilled", "teacher"]
    assert (two_steps, teacher) == (_cell(grids["subjects"], 3), _cell(grids["subjects"], 1))
    assert one_step != two_steps


def test_every_seed_gives_another_picture(grids: dict[str, Image.Image]) -> None:
    cells = [_cell(grids["seeds"], column) for column in range(6)]

    assert json.loads(grids["seeds"].text["seeds"]) == [5, 6, 7, 8, 9, 10]
    assert cells[0] == _cell(grids["subjects"], 3)
    assert len(set(cells)) == 6


def test_interpolated_pictures_differ_from_both_ends(grids: dict[str, Image.Image]) -> None:
    assert len({_cell(grids["interpolation"], column) for column in (0, 3, 6)}) == 3


def test_neighbours_are_beside_the_drawn_picture(grids: dict[str, Image.Image], tiny_dataset_dir: Path) -> None:
    train = load_split(tiny_dataset_dir, "train", prompt_template=TEMPLATE)
    real = {fit_cell(Image.open(example.image_path), CELL_PX).tobytes() for example in train}
    drawn, *neighbours = (_cell(grids["neighbours"], column) for column in range(5))

    assert drawn == _cell(grids["subjects"], 3)
    assert set(neighbours) <= real
    assert len(set(neighbours)) == 4


def test_with_a_scheduler_that_adds_noise_the_grid_shows_the_evaluated_pictures(
    tiny_pipeline_dir: Path, tiny_dataset_dir: Path, tmp_path: Path
) -> None:
    models = _models(tiny_pipeline_dir, student_scheduler="lcm")
    prompts = [example.prompt for example in load_split(tiny_dataset_dir, "test", prompt_template=TEMPLATE)[:3]]

    make_sample_grids(SAMPLES, models=models, dataset_dir=tiny_dataset_dir, out_dir=tmp_path / "grids")

    evaluated = draw_set(load_subjects(models)["distilled"], prompts, seed=5, batch_size=3)
    with Image.open(tmp_path / "grids/test_captions.png") as grid:
        assert _cell(grid, 4) == fit_cell(Image.fromarray(evaluated[-1]), CELL_PX).tobytes()


def test_the_ablation_grid_draws_every_variant_from_the_same_noise(tiny_pipeline_dir: Path, tmp_path: Path) -> None:
    models = _models(tiny_pipeline_dir)
    four_steps = replace(models, sampling=models.sampling.model_copy(update={"student_steps": 4}))

    make_ablation_grid(SAMPLES, models=models, others={"same": models, "four": four_steps}, path=tmp_path / "grid.png")

    with Image.open(tmp_path / "grid.png") as grid:
        assert json.loads(grid.text["steps"]) == [3, 2, 2, 1, 2, 2, 4]
        cells = [_cell(grid, column) for column in range(7)]
    assert cells[2] == cells[4] == cells[5]  # the student, the distilled student and the same variant are one model
    assert len({cells[column] for column in (0, 1, 2, 3, 6)}) == 5


def _cell(grid: Image.Image, column: int) -> bytes:
    """The picture of this column in the last row."""
    left = CELL_PX + GAP_PX + (CELL_PX + GAP_PX) * column
    return grid.crop((left, grid.height - CELL_PX - GAP_PX, left + CELL_PX, grid.height - GAP_PX)).tobytes()


def _models(pipeline_dir: Path, student_scheduler: StudentScheduler = "ddim") -> Models:
    """One model in all roles; students take two steps, teachers three."""
    return Models(
        base=Base(
            model=str(pipeline_dir),
            revision="",
            variant="",
            resolution_px=32,
            frozen_precision="fp32",
            autocast="fp32",
            prompt_template=TEMPLATE,
            caption_chunks=1,
        ),
        sampling=Sampling(
            teacher_steps=3, student_steps=2, pool_steps=8, guidance_scale=2.0, student_scheduler=student_scheduler
        ),
        teacher_dir=pipeline_dir,
        student_dir=pipeline_dir / "unet",
        distilled_dir=pipeline_dir / "unet",
    )
