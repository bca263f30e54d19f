"""`naruto-add generate` draws the student's pictures, and its errors name the option."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from naruto_add.comparison.draw import draw_pixels
from naruto_add.diffusion.bundle import encode_prompts, load_pipeline_folder
from naruto_add.diffusion.sampling import student_sampler
from naruto_add.export.diffusers_folder import IMAGE_TOLERANCE
from naruto_add.imaging.grid import to_images
from tests.cli.run import run, run_error, run_ok
from tests.export.build import export, sampling

PROMPT = "a man with white hair"


def _generate(exported_dir: Path, *arguments: str) -> list[Path]:
    """Draw from PROMPT with the exported student; the paths that the command prints."""
    output = run_ok("generate", PROMPT, "--model", str(exported_dir), *arguments)
    return [Path(line.split("  ")[0]) for line in output.splitlines()]


def _pixels(path: Path) -> np.ndarray:
    with Image.open(path) as image:
        return np.asarray(image).astype(int)


def test_pictures_equal_those_of_the_library(exported_dir: Path, tiny_pipeline_dir: Path, empty_folder: Path) -> None:
    drawn = [_pixels(path) for path in _generate(exported_dir, "--num", "2", "--seed", "5")]
    bundle = load_pipeline_folder(tiny_pipeline_dir, precision="fp32")
    noise = [torch.randn(1, *bundle.latent_shape, generator=torch.Generator().manual_seed(seed)) for seed in (5, 6)]
    pixels = draw_pixels(
        bundle,
        student_sampler(bundle, sampling(), 4),
        prompt_embeds=encode_prompts(bundle, [f"{PROMPT}, drawn"] * 2),
        noise=torch.cat(noise),
        seed=0,
        indices=[0, 1],
    )
    expected = [np.asarray(image).astype(int) for image in to_images(pixels)]
    tolerance = 255 * IMAGE_TOLERANCE["fp32"] + 1  # and one level by rounding
    assert max(np.abs(one - other).max() for one, other in zip(drawn, expected, strict=True)) <= tolerance
    assert np.abs(drawn[0] - drawn[1]).max() > 4 * tolerance


def test_the_same_command_draws_the_same_picture_beside_the_first(exported_dir: Path, empty_folder: Path) -> None:
    (first,) = _generate(exported_dir, "--num", "1")
    (second,) = _generate(exported_dir, "--num", "1")
    assert first == Path("pictures/a-man-with-white-hair-seed0.png")
    assert second == Path("pictures/a-man-with-white-hair-seed0-2.png")
    assert first.read_bytes() == second.read_bytes()


def test_a_picture_does_not_depend_on_the_others(exported_dir: Path, empty_folder: Path) -> None:
    several = _generate(exported_dir, "--num", "3")
    (single,) = _generate(exported_dir, "--num", "1", "--seed", "2")
    assert several[2].read_bytes() == single.read_bytes()


def test_metadata_says_how_a_picture_was_drawn(exported_dir: Path, empty_folder: Path) -> None:
    (path,) = _generate(exported_dir, "--num", "1", "--seed", "7", "--out", "élève")
    with Image.open(path) as image:
        assert image.text == {
            "prompt": PROMPT,
            "prompt_template": "{caption}, drawn",
            "seed": "7",
            "steps": "4",
            "model": str(exported_dir),
        }
    assert path.parent == Path("élève")


def test_the_template_is_left_out_on_request(exported_dir: Path, empty_folder: Path) -> None:
    (templated,) = _generate(exported_dir, "--num", "1")
    output = run_ok("generate", f"{PROMPT}, drawn", "--raw-prompt", "--num", "1", "--model", str(exported_dir))
    assert (_pixels(Path(output.split("  ")[0])) == _pixels(templated)).all()


def test_a_grid_has_a_row_per_prompt_and_a_column_per_seed(exported_dir: Path, empty_folder: Path) -> None:
    output = run_ok("generate", PROMPT, "a girl", "--num", "2", "--grid", "--model", str(exported_dir))
    *_, last = output.splitlines()
    assert len(output.splitlines()) == 5
    with Image.open(last.split("  ")[0]) as grid:
        assert json.loads(grid.text["captions"]) == [PROMPT, "a girl"]
        assert [column.partition(":")[0] for column in json.loads(grid.text["columns"])] == ["seed 0", "seed 1"]
        assert (grid.text["steps"], grid.text["model"]) == ("4", str(exported_dir))


def test_another_number_of_steps_draws_another_picture(exported_dir: Path, empty_folder: Path) -> None:
    (default,) = _generate(exported_dir, "--num", "1")
    (other,) = _generate(exported_dir, "--num", "1", "--steps", "2")
    assert (_pixels(default) != _pixels(other)).any()


def test_a_teacher_draws_with_the_values_of_params_yaml(tiny_pipeline_dir: Path, project_folder: Path) -> None:
    path = project_folder / "params.yaml"
    path.write_text(path.read_text().replace("teacher_steps: 100", "teacher_steps: 3"))
    output = run_ok("generate", PROMPT, "--num", "1", "--model", str(tiny_pipeline_dir))
    with Image.open(output.split("  ")[0]) as image:
        assert (image.text["steps"], image.text["guidance_scale"]) == ("3", "3")


def test_a_teacher_needs_options_where_there_is_no_params_yaml(tiny_pipeline_dir: Path, empty_folder: Path) -> None:
    arguments = ["generate", PROMPT, "--num", "1", "--model", str(tiny_pipeline_dir)]
    for option in (["--steps", "2"], ["--guidance", "2"], ["--raw-prompt"]):
        assert f"{option[0]}: has no default for {tiny_pipeline_dir}" in run_error(*arguments)
        arguments += option
    run_ok(*arguments)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--model", "nowhere"], "--model: nowhere: no such folder; `dvc repro` makes models/export"),
        (["--model", "part"], "--model: part is not a complete pipeline, it has no model_index.json"),
        (["--model", "damaged"], "--model: damaged cannot be loaded"),
        (["--out", "file/pictures"], "--out: cannot write to file/pictures: Not a directory; choose another folder"),
        (["--seed", "2147483647", "--num", "2"], "--seed: 2147483647 plus --num 2 exceeds the largest seed"),
        (["--guidance", "5"], "--guidance: 5 has no effect on"),
    ],
)
def test_mistakes_name_the_option(arguments: list[str], message: str, exported_dir: Path, empty_folder: Path) -> None:
    Path("part").mkdir()
    Path("file").touch()
    shutil.copytree(exported_dir, "damaged")
    Path("damaged/unet/diffusion_pytorch_model.safetensors").write_bytes(b"damaged")
    assert message in run_error("generate", PROMPT, "--model", str(exported_dir), *arguments)
    assert not [file for file in Path().rglob("*.png") if not file.is_relative_to("damaged")]  # the card's pictures


def test_steps_that_the_scheduler_cannot_take_are_refused(
    tiny_pipeline_dir: Path, tmp_path: Path, empty_folder: Path
) -> None:
    folder = export(tiny_pipeline_dir, tmp_path, scheduler="lcm")
    message = run_error("generate", PROMPT, "--model", str(folder), "--steps", "8")
    assert f"--steps: 8 is not possible with the LCMScheduler of {folder}; use fewer" in message


def test_an_empty_prompt_is_refused(exported_dir: Path, empty_folder: Path) -> None:
    assert "PROMPT: ' ' is empty; describe a picture" in run_error("generate", "a man", " ")


def test_steps_out_of_range_are_wrong_usage(exported_dir: Path, empty_folder: Path) -> None:
    result = run("generate", PROMPT, "--steps", "0")
    assert result.exit_code == 2
    assert "Invalid value for '--steps': 0 is not in the range 1<=x<=1000" in result.stderr
