"""The whole stage: what it writes, which weights, whom it refuses."""

import json
from pathlib import Path

import pytest
from diffusers import UNet2DConditionModel

from naruto_add.diffusion.bundle import load_unet
from naruto_add.params import Add
from naruto_add.runtime import StageError
from naruto_add.training.add import distillation_run
from naruto_add.training.add.alarms import ADVERSARIAL_ADVICE
from naruto_add.training.add.distill import distill
from naruto_add.training.add.picture_score import PictureScore
from tests.training.add.build import PROFILE, TEMPLATE, Build, add_params, same, weights


def distill_into(build: Build, folder: Path, teacher_dir: Path, params: Add) -> Path:
    distill(
        build.dataset_dir,
        teacher_dir,
        student_dir=build.student_dir,
        pool_path=build.pool_path,
        pool_steps=4,
        params=params,
        precision=PROFILE.base.precision,
        guidance_scale=PROFILE.sampling.guidance_scale,
        student_scheduler="ddim",
        prompt_template=TEMPLATE,
        out_dir=folder / "distilled",
        checkpoint_dir=folder / "checkpoints",
        pool_cache_dir=folder / "drawn",
        curves_path=folder / "curves.tsv",
        metrics_path=folder / "add.json",
    )
    return folder / "distilled"


def files(folder: Path) -> dict[str, bytes]:
    return {str(item.relative_to(folder)): item.read_bytes() for item in folder.rglob("*") if item.is_file()}


def test_distill_writes_a_unet_curves_and_figures_and_changes_nothing_else(
    build: Build, tiny_pipeline_dir: Path, tmp_path: Path
) -> None:
    before = files(tiny_pipeline_dir), files(build.student_dir)
    first, second = (distill_into(build, tmp_path / name, tiny_pipeline_dir, add_params(num_steps=2)) for name in "ab")
    assert (files(tiny_pipeline_dir), files(build.student_dir)) == before
    assert files(first) == files(second)
    assert UNet2DConditionModel.from_pretrained(first).config.block_out_channels == [16, 32, 32]
    header = (tmp_path / "a/curves.tsv").read_text().splitlines()[0].split("\t")
    wanted = {"distill_loss", "adv_loss", "disc_loss", "real_logit", "fake_logit", "student_grad_norm"}
    assert header[0] == "step" and wanted <= set(header)
    metrics = json.loads((tmp_path / "a/add.json").read_text())
    assert metrics["best_score"] <= metrics["start_score"]
    assert metrics["skipped_steps"] == 0
    assert {name for name in metrics if name.startswith("alarms_")} == {f"alarms_{name}" for name in ADVERSARIAL_ADVICE}


def test_the_best_validated_average_is_written_not_the_last_iterate(
    build: Build, tiny_pipeline_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scores = iter([0.5, 0.6])
    monkeypatch.setattr(PictureScore, "__call__", lambda *_: next(scores))
    out_dir = distill_into(build, tmp_path, tiny_pipeline_dir, add_params(num_steps=2))
    written = load_unet(out_dir, precision="fp32")
    assert same(weights(written), weights(load_unet(build.student_dir, precision="fp32")))
    assert json.loads((tmp_path / "add.json").read_text())["best_step"] == 0


def test_a_student_that_cannot_sample_is_refused_unless_the_gate_is_open(
    build: Build, tiny_pipeline_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise StageError("the student cannot sample")

    monkeypatch.setattr(distillation_run, "check_can_sample", refuse)
    with pytest.raises(StageError, match="cannot sample"):
        distill_into(build, tmp_path / "closed", tiny_pipeline_dir, add_params(num_steps=1))
    assert distill_into(build, tmp_path / "open", tiny_pipeline_dir, add_params(num_steps=1, gate=False)).exists()


def test_distill_says_how_far_the_image_text_network_can_be_trusted(
    build: Build, tiny_pipeline_dir: Path, tmp_path: Path
) -> None:
    values = {"image_text_weight": 0.5, "image_text_crop_px": 32, "caption_match_steps": 2}
    distill_into(build, tmp_path, tiny_pipeline_dir, add_params(num_steps=2, **values))
    assert len(list((tmp_path / "checkpoints").glob("caption_match-*.safetensors"))) == 1
    assert "image_text_loss" in (tmp_path / "curves.tsv").read_text().splitlines()[0].split("\t")
    metrics = json.loads((tmp_path / "add.json").read_text())
    assert metrics["image_text_chance"] == pytest.approx(0.25)
    assert "image_text_accuracy" in metrics
