"""The exported folder, used by plain diffusers with default settings, is the student."""

import json
from pathlib import Path

import pytest
import torch
from diffusers import DiffusionPipeline, StableDiffusionPipeline, UNet2DConditionModel
from safetensors import safe_open

from naruto_add.config.schema import StudentScheduler
from naruto_add.diffusion.bundle import ModelBundle
from naruto_add.diffusion.sampling import initial_noise, make_student_scheduler
from naruto_add.export.diffusers_folder import check_export
from naruto_add.generate.settings import SamplingSettings, read_settings
from naruto_add.runtime.errors import StageError
from tests.export.build import BASE, PROMPTS, export

TIMESTEPS = [999, 749, 499, 249]


@pytest.mark.parametrize("scheduler", ["ddim", "lcm"])
def test_predictions_and_pictures_equal_the_students(
    tiny_pipeline_dir: Path, tmp_path: Path, scheduler: StudentScheduler
) -> None:
    folder = export(tiny_pipeline_dir, tmp_path, scheduler=scheduler)
    pipeline = DiffusionPipeline.from_pretrained(folder)
    assert isinstance(pipeline, StableDiffusionPipeline)
    pipeline.scheduler.set_timesteps(4)
    assert pipeline.scheduler.timesteps.tolist() == TIMESTEPS
    figures = json.loads((tmp_path / "metrics/export.json").read_text())
    assert figures["diffusers.noise_pred_max_abs_diff"] <= 1e-5
    assert figures["diffusers.images_max_abs_diff"] <= 1e-4
    assert figures["diffusers.size_mib"] > 0


def test_the_parity_check_finds_another_student(
    tiny_bundle: ModelBundle, tiny_pipeline_dir: Path, tmp_path: Path
) -> None:
    folder = export(tiny_pipeline_dir, tmp_path)
    tiny_bundle.unet.conv_out.bias.data += 0.01
    scheduler = make_student_scheduler(tiny_bundle.scheduler, "ddim", 4)
    parity = check_export(tiny_bundle, scheduler, folder, timesteps=TIMESTEPS, prompts=PROMPTS, seed=0)
    assert parity.noise_pred.largest == pytest.approx(0.01, rel=1e-2)
    assert parity.images.largest > 0


def test_guidance_and_negative_prompts_have_no_effect(
    tiny_bundle: ModelBundle, tiny_pipeline_dir: Path, tmp_path: Path
) -> None:
    pipeline = DiffusionPipeline.from_pretrained(export(tiny_pipeline_dir, tmp_path))
    noise = initial_noise(tiny_bundle, 1, seed=0)
    pictures = [
        pipeline(PROMPTS[0], num_inference_steps=4, latents=noise, output_type="pt", **options).images
        for options in ({}, {"guidance_scale": 1.0}, {"guidance_scale": 20.0}, {"negative_prompt": "a sword"})
    ]
    assert all(torch.equal(picture, pictures[0]) for picture in pictures)
    assert not pipeline.do_classifier_free_guidance


def test_fp16_weights_are_stored_in_fp16(tiny_pipeline_dir: Path, tmp_path: Path) -> None:
    folder = export(tiny_pipeline_dir, tmp_path, precision="fp16")
    with safe_open(folder / "unet/diffusion_pytorch_model.safetensors", "pt") as weights:
        assert {weights.get_tensor(name).dtype for name in weights.keys()} == {torch.float16}  # noqa: SIM118


@pytest.mark.parametrize("dtype", [None, torch.float16])
def test_an_fp16_folder_draws_as_its_card_says_and_without_a_dtype(
    tiny_pipeline_dir: Path, tmp_path: Path, dtype: torch.dtype | None
) -> None:
    folder = export(tiny_pipeline_dir, tmp_path, precision="fp16")
    pipeline = StableDiffusionPipeline.from_pretrained(folder, **({} if dtype is None else {"dtype": dtype}))
    parts = (pipeline.unet, pipeline.vae, pipeline.text_encoder)
    assert {part.dtype for part in parts} == {dtype or torch.float32}
    picture = pipeline(PROMPTS[0], num_inference_steps=4, output_type="pt").images
    assert picture.isfinite().all()


def test_an_fp16_folder_of_large_values_is_judged_by_relative_differences(
    tiny_pipeline_dir: Path, tmp_path: Path
) -> None:
    unet = UNet2DConditionModel.from_pretrained(tiny_pipeline_dir / "unet")
    unet.conv_out.weight.data *= 100
    unet.save_pretrained(tmp_path / "distilled")
    export(tiny_pipeline_dir, tmp_path, distilled_dir=tmp_path / "distilled", precision="fp16")
    assert json.loads((tmp_path / "metrics/export.json").read_text())["diffusers.noise_pred_max_abs_diff"] > 0.03


def test_weights_that_fp16_cannot_hold_are_refused_and_nothing_is_written(
    tiny_pipeline_dir: Path, tmp_path: Path
) -> None:
    unet = UNet2DConditionModel.from_pretrained(tiny_pipeline_dir / "unet")
    unet.conv_out.bias.data += 1e5
    unet.save_pretrained(tmp_path / "distilled")
    with pytest.raises(StageError, match=r"export\.precision: with fp16, .* predictions differ .* by inf, .* use fp32"):
        export(tiny_pipeline_dir, tmp_path, distilled_dir=tmp_path / "distilled", precision="fp16")
    assert not (tmp_path / "models/export").exists()
    assert not (tmp_path / "metrics/export.json").exists()


def test_a_scheduler_that_visits_other_timesteps_is_refused(
    tiny_bundle: ModelBundle, tiny_pipeline_dir: Path, tmp_path: Path
) -> None:
    folder = export(tiny_pipeline_dir, tmp_path)
    scheduler = make_student_scheduler(tiny_bundle.scheduler, "ddim", 4)
    with pytest.raises(StageError, match=r"visits \[999, 749, 499, 249\], but the student was trained at \[999, 700"):
        check_export(tiny_bundle, scheduler, folder, timesteps=[999, 700, 400, 100], prompts=PROMPTS, seed=0)


def test_the_bytes_do_not_depend_on_the_folder(tiny_pipeline_dir: Path, tmp_path: Path) -> None:
    first = export(tiny_pipeline_dir, tmp_path / "first")
    second = export(tiny_pipeline_dir, tmp_path / "second")
    assert _contents(first) == _contents(second)
    assert str(tmp_path).encode() not in b"".join(_contents(first).values())


def test_the_folder_records_how_it_is_sampled(tiny_pipeline_dir: Path, tmp_path: Path) -> None:
    folder = export(tiny_pipeline_dir, tmp_path)
    assert read_settings(folder) == SamplingSettings(num_inference_steps=4, prompt_template=BASE.prompt_template)
    assert read_settings(tmp_path) is None
    (folder / "naruto_add.json").write_text('{"steps": 4}')
    with pytest.raises(StageError, match=r"naruto_add\.json: is damaged .* `dvc repro export`"):
        read_settings(folder)


def _contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}
