"""The whole stage: its files, the weights that it writes, its errors."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import UNet2DConditionModel
from PIL import Image

from naruto_add.config.schema import Add
from naruto_add.diffusion.bundle import load_unet
from naruto_add.runtime.errors import StageError
from naruto_add.training.add.alarms import ADVERSARIAL_ADVICE
from naruto_add.training.add.train import distill
from naruto_add.training.loop import TrainingRun
from tests.training.add.build import SETTINGS, Build, add_params, same, weights


@pytest.fixture
def build(build: Build, drawn_dataset_dir: Path) -> Build:
    """With few pictures, because the network of the validation score, which looks at each of them, costs the most."""
    build.dataset_dir = drawn_dataset_dir
    return build


def run_stage(build: Build, teacher_dir: Path, folder: Path, params: Add, **values: Any) -> Path:
    """Run `add` with all outputs in `folder`; returns the folder of the distilled U-Net."""
    options: dict[str, Any] = {"student_dir": build.student_dir, "student_scheduler": "ddim", **values}
    distill(
        params,
        SETTINGS,
        dataset_dir=build.dataset_dir,
        teacher_dir=teacher_dir,
        pool_path=build.pool_path,
        pool_cache_dir=folder / "pool",
        out_dir=folder / "distilled",
        metrics_path=folder / "add.json",
        validation_grid_path=folder / "add.png",
        run=TrainingRun(checkpoint_dir=folder / "checkpoints", curves_path=folder / "curves.tsv"),
        **options,
    )
    return folder / "distilled"


def files(folder: Path) -> dict[str, bytes]:
    return {str(item.relative_to(folder)): item.read_bytes() for item in folder.rglob("*") if item.is_file()}


def header(path: Path) -> list[str]:
    return path.read_text().splitlines()[0].split("\t")


def test_the_stage_writes_unet_curves_and_metrics_reproducibly_and_changes_no_input(
    build: Build, tiny_pipeline_dir: Path, tmp_path: Path
) -> None:
    before = files(tiny_pipeline_dir), files(build.student_dir)
    params = add_params(num_steps=2)
    first, second = (run_stage(build, tiny_pipeline_dir, tmp_path / name, params) for name in "ab")
    assert (files(tiny_pipeline_dir), files(build.student_dir)) == before
    assert files(first) == files(second)
    assert UNet2DConditionModel.from_pretrained(first).config.block_out_channels == [16, 32, 32]
    wanted = {"distill_loss", "adv_loss", "disc_loss", "real_logit", "fake_logit", "student_grad_norm"}
    assert header(tmp_path / "a/curves.tsv")[0] == "step" and wanted <= set(header(tmp_path / "a/curves.tsv"))
    with Image.open(tmp_path / "a/add.png") as grid:
        assert grid.format == "PNG"
    metrics = json.loads((tmp_path / "a/add.json").read_text())
    assert metrics["method"] == "adversarial"
    assert metrics["skipped_steps"] == 0
    assert {name for name in metrics if name.startswith("alarms_")} == {f"alarms_{name}" for name in ADVERSARIAL_ADVICE}


def test_training_that_ruins_the_student_leaves_the_weights_of_the_start(
    build: Build, tiny_pipeline_dir: Path, tmp_path: Path
) -> None:
    params = add_params(num_steps=2, learning_rate=0.5, ema_decay=0.0)
    loaded = {"precision": "fp32", "scheduler": build.bundle.scheduler}
    written = load_unet(run_stage(build, tiny_pipeline_dir, tmp_path, params), **loaded)
    assert same(weights(written), weights(load_unet(build.student_dir, **loaded)))
    assert json.loads((tmp_path / "add.json").read_text())["kept_step"] == 0


def test_a_student_that_cannot_sample_is_an_error_unless_the_parameters_allow_it(
    build: Build, tiny_pipeline_dir: Path, tmp_path: Path
) -> None:
    student = load_unet(build.student_dir, precision="fp32", scheduler=build.bundle.scheduler)
    with torch.no_grad():
        student.conv_out.weight.mul_(-30)
    student.save_pretrained(tmp_path / "student")
    values = {"student_dir": tmp_path / "student"}
    with pytest.raises(StageError, match="the student cannot sample"):
        run_stage(build, tiny_pipeline_dir, tmp_path / "refused", add_params(num_steps=1), **values)
    params = add_params(num_steps=1, require_trained_student=False)
    assert run_stage(build, tiny_pipeline_dir, tmp_path / "allowed", params, **values).exists()


@pytest.mark.slow
def test_the_image_text_network_is_trained_at_the_start_and_its_accuracy_is_a_metric(
    build: Build, tiny_pipeline_dir: Path, tmp_path: Path
) -> None:
    params = add_params(num_steps=2, image_text_weight=0.5)
    run_stage(build, tiny_pipeline_dir, tmp_path, params)
    assert (tmp_path / "checkpoints/caption_match.safetensors").exists()
    assert "image_text_loss" in header(tmp_path / "curves.tsv")
    metrics = json.loads((tmp_path / "add.json").read_text())
    assert metrics["image_text_chance"] == pytest.approx(0.25)
    assert "image_text_accuracy" in metrics


def test_the_method_consistency_has_no_discriminator(build: Build, tiny_pipeline_dir: Path, tmp_path: Path) -> None:
    params = add_params(method="consistency", num_steps=2)
    out_dir = run_stage(build, tiny_pipeline_dir, tmp_path, params, student_scheduler="lcm")
    assert header(tmp_path / "curves.tsv") == ["step", "consistency_loss", "skipped_steps", "student_grad_norm"]
    metrics = json.loads((tmp_path / "add.json").read_text())
    assert metrics["method"] == "consistency"
    assert "discriminator_params" not in metrics
    assert UNet2DConditionModel.from_pretrained(out_dir).config.block_out_channels == [16, 32, 32]


@pytest.mark.slow
def test_other_picture_sizes_get_samples_of_their_own(build: Build, tiny_pipeline_dir: Path, tmp_path: Path) -> None:
    params = add_params(num_steps=3, resolutions_px=[64, "96x32"], resolution_pool_size=6)
    run_stage(build, tiny_pipeline_dir, tmp_path, params)
    assert len(list((tmp_path / "pool").glob("*.safetensors"))) == 2
    assert json.loads((tmp_path / "add.json").read_text())["skipped_steps"] == 0
