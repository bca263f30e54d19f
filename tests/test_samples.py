"""Sample grids: the same noise for every subject, and files that say how they were drawn."""

import json
from dataclasses import replace
from pathlib import Path

from PIL import Image

from naruto_add.data.dataset import load_split
from naruto_add.diffusion.bundle import ModelBundle
from naruto_add.evaluation.generate import draw_set
from naruto_add.evaluation.subjects import Models, load_subjects
from naruto_add.grid import CELL_PX, GAP_PX, fit_cell
from naruto_add.params import Base, Samples, Sampling, StudentScheduler
from naruto_add.samples import make_ablation_grid, make_sample_grids


def test_sample_grids_start_from_the_same_noise(
    tiny_bundle: ModelBundle, tiny_pipeline_dir: Path, tiny_dataset_dir: Path, tmp_path: Path
) -> None:
    prompts = ["a man", "Naruto Uzumaki roule en suzuki"]
    make_sample_grids(
        Samples(
            seed=5, prompts=prompts, num_held_out=3, steps=[1, 2], interpolate_from="a man", interpolate_to="a girl"
        ),
        models=_models(tiny_pipeline_dir, tiny_bundle),
        prompt_template="{caption}",
        dataset_dir=tiny_dataset_dir,
        out_dir=tmp_path / "grids",
    )
    with Image.open(tmp_path / "grids" / "subjects.png") as grid:
        assert json.loads(grid.text["prompts"]) == prompts
        cells = [_cell(grid, column) for column in range(4)]
    assert cells[0] == cells[1]  # base and teacher are one model here, and so are the students
    assert cells[2] == cells[3]
    assert cells[1] != cells[2]
    files = {path.stem: path for path in (tmp_path / "grids").iterdir()}
    assert set(files) == {"subjects", "held_out", "seeds", "steps", "interpolation", "neighbours"}
    held_out = load_split(tiny_dataset_dir, "test")[:3]
    with Image.open(files["held_out"]) as grid, Image.open(held_out[-1].image_path) as real:
        assert json.loads(grid.text["captions"]) == [example.caption for example in held_out]
        assert json.loads(grid.text["columns"])[0] == "real: held out"
        assert _cell(grid, 0) == fit_cell(real, CELL_PX).tobytes()
        assert _cell(grid, 1) == _cell(grid, 2) != _cell(grid, 3)
    with Image.open(files["steps"]) as grid:
        assert json.loads(grid.text["steps"]) == [1, 2, 3]
        assert json.loads(grid.text["models"]) == ["distilled", "distilled", "teacher"]
        steps = [_cell(grid, column) for column in range(3)]
    assert steps[1:] == [cells[2], cells[1]]
    assert steps[0] != steps[1]
    with Image.open(files["neighbours"]) as grid:
        assert _cell(grid, 0) == cells[3]
        assert json.loads(grid.text["seeds"]) == [5]
    with Image.open(files["interpolation"]) as grid:
        assert len({_cell(grid, column) for column in (0, 3, 6)}) == 3


def test_with_a_sampler_that_renoises_held_out_pictures_are_those_that_are_evaluated(
    tiny_bundle: ModelBundle, tiny_pipeline_dir: Path, tiny_dataset_dir: Path, tmp_path: Path
) -> None:
    models = _models(tiny_pipeline_dir, tiny_bundle, student_scheduler="lcm")
    params = Samples(seed=5, prompts=["a man"], num_held_out=3, steps=[1], interpolate_from="a", interpolate_to="b")
    make_sample_grids(
        params, models=models, prompt_template="{caption}", dataset_dir=tiny_dataset_dir, out_dir=tmp_path / "grids"
    )
    prompts = [example.caption for example in load_split(tiny_dataset_dir, "test")[:3]]
    evaluated = draw_set(load_subjects(models)["distilled"], prompts, seed=5, batch_size=3)
    with Image.open(tmp_path / "grids/held_out.png") as grid:
        assert _cell(grid, 4) == fit_cell(Image.fromarray(evaluated[-1]), CELL_PX).tobytes()


def test_the_ablations_grid_draws_every_variant_from_the_same_noise(
    tiny_bundle: ModelBundle, tiny_pipeline_dir: Path, tmp_path: Path
) -> None:
    models = _models(tiny_pipeline_dir, tiny_bundle)
    params = Samples(seed=5, prompts=["a man"], num_held_out=1, steps=[1, 2], interpolate_from="a", interpolate_to="b")
    others = {"same": models, "four steps": replace(models, num_student_steps=4)}
    make_ablation_grid(params, models=models, others=others, prompt_template="{caption}", path=tmp_path / "grid.png")
    with Image.open(tmp_path / "grid.png") as grid:
        assert json.loads(grid.text["steps"]) == [3, 2, 2, 1, 2, 2, 4]
        cells = [_cell(grid, column) for column in range(7)]
    assert cells[2] == cells[4] == cells[5]  # before ADD, distilled, the same again
    assert len({cells[column] for column in (0, 1, 2, 3, 6)}) == 5


def _cell(grid: Image.Image, column: int) -> bytes:
    left = CELL_PX + GAP_PX + (CELL_PX + GAP_PX) * column
    return grid.crop((left, grid.height - CELL_PX - GAP_PX, left + CELL_PX, grid.height - GAP_PX)).tobytes()


def _models(pipeline_dir: Path, bundle: ModelBundle, student_scheduler: StudentScheduler = "ddim") -> Models:
    """All are one model; students are drawn in two steps, teachers in three."""
    return Models(
        base=_base(pipeline_dir, bundle),
        sampling=Sampling(teacher_steps=3, guidance_scale=2.0, student_scheduler=student_scheduler),
        num_student_steps=2,
        teacher_dir=pipeline_dir,
        student_dir=pipeline_dir / "unet",
        distilled_dir=pipeline_dir / "unet",
    )


def _base(model: Path, bundle: ModelBundle) -> Base:
    side = bundle.unet.config.sample_size * 2 ** (len(bundle.vae.config.block_out_channels) - 1)
    return Base(model=str(model), revision="", variant="", precision="fp32", resolution_px=side)
