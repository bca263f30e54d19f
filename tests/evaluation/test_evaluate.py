"""The evaluation of a tiny pipeline: its files, its metrics, and what its caches save."""

import json
import re
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from naruto_add.comparison.subjects import Models
from naruto_add.config.schema import Base, Evaluate, Sampling
from naruto_add.evaluation.catalog import describe, is_companion
from naruto_add.evaluation.evaluate import evaluate
from naruto_add.runtime.errors import StageError

SUBJECTS = ("base", "teacher", "student", "distilled", "teacher_full", "teacher_few_steps", "teacher_few_steps_dpm")
FD, KD, PD = "fd_efficientnet_lite1", "kd_efficientnet_lite1", "pd_efficientnet_lite1"
ENDS = ("", "_low", "_high")
OVERLAP = ("precision", "recall", "density", "coverage")
NOVELTY = {"nearest_train_ratio", *(f"near_train_fraction{end}" for end in ENDS)}
DISTRIBUTION = {
    "num_images",
    *(f"{name}{end}" for name in (FD, KD) for end in ENDS),
    *OVERLAP,
    *(f"{name}_n_small" for name in (FD, KD, *OVERLAP)),
}
CLOSENESS = {f"{PD}{end}" for end in ENDS}
DIVERSITY = {"num_diversity_pairs", *(f"{PD}_diversity{end}" for end in ENDS)}
NOISE_FLOOR = {f"{PD}_noise_floor{end}" for end in ENDS}
LATENCY = {
    *("latency_ms", "latency_p95_ms", "latency_batch8_ms", "latency_batch8_p95_ms"),
    *("speedup", "images_per_second"),
}
COST = LATENCY | {"num_inference_steps", "num_latency_repeats", "params_m", "pipeline_params_m", "size_mib"}
IS_ATTRIBUTE = re.compile("attribute|num_named")


@dataclass(frozen=True)
class Result:
    """What an evaluation wrote."""

    metrics: dict[str, float]
    subject: dict[str, float]
    sweep: list[list[str]]

    def row(self, name: str) -> set[str]:
        """The metrics of a row, except those of attributes."""
        names = {key.partition(".")[2] for key in self.metrics if key.partition(".")[0] == name}
        return {metric for metric in names if not IS_ATTRIBUTE.search(metric)}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("evaluate")


@pytest.fixture(scope="module")
def models(tiny_pipeline_dir: Path, folder: Path) -> Models:
    """Four models with different weights; students take two steps, the teacher four by its own scheduler."""
    return Models(
        base=Base(
            model=str(tiny_pipeline_dir),
            revision="",
            variant="",
            resolution_px=32,
            frozen_precision="fp32",
            autocast="fp32",
            prompt_template="{caption}, drawn",
            caption_chunks=1,
        ),
        sampling=Sampling(teacher_steps=4, student_steps=2, pool_steps=8, guidance_scale=2.0, student_scheduler="ddim"),
        teacher_dir=_other_weights(tiny_pipeline_dir, folder / "teacher", seed=1),
        student_dir=_other_weights(tiny_pipeline_dir / "unet", folder / "student", seed=2),
        distilled_dir=_other_weights(tiny_pipeline_dir / "unet", folder / "distilled", seed=3),
    )


@pytest.fixture(scope="module")
def result(models: Models, tiny_dataset_dir: Path, folder: Path) -> Result:
    return _evaluate(models, tiny_dataset_dir, folder)


def _other_weights(source: Path, target: Path, *, seed: int) -> Path:
    """A copy of a model folder with noise on the weights of its U-Net."""
    shutil.copytree(source, target)
    path = next(target.rglob("unet/*.safetensors"), None) or next(target.glob("*.safetensors"))
    generator = torch.Generator().manual_seed(seed)
    weights = {name: t + 0.05 * torch.randn(t.shape, generator=generator) for name, t in load_file(path).items()}
    save_file(weights, path, metadata={"format": "pt"})
    return target


def _evaluate(
    models: Models, dataset_dir: Path, folder: Path, *, drawn: str = "drawn", cache: str = "cache", **changes: Any
) -> Result:
    values = {
        "seed": 0,
        "subject": "distilled",
        "num_images": 0,
        "batch_size": 2,
        "features": "embedded",
        "perceptual": "embedded",
        "clip_score": "off",
        "latency_repeats": 1,
        "teacher_steps": 3,
        "student_sweep": [1, 2],
        "teacher_sweep": [2, 3],
        "sweep_images": 3,
        "classifier_steps": 1,
    }
    evaluate(
        Evaluate(**values | changes),
        models=models,
        dataset_dir=dataset_dir,
        drawn_dir=folder / drawn,
        cache_dir=folder / cache,
        metrics_path=folder / "evaluate.json",
        subject_path=folder / "subject.json",
        sweep_path=folder / "sweep.tsv",
    )
    return Result(
        json.loads((folder / "evaluate.json").read_text()),
        json.loads((folder / "subject.json").read_text()),
        [line.split("\t") for line in (folder / "sweep.tsv").read_text().splitlines()],
    )


def _files(folder: Path) -> dict[Path, int]:
    """Every file with the time of its last change."""
    return {path: path.stat().st_mtime_ns for path in folder.rglob("*") if path.is_file()}


def test_every_subject_has_all_metrics(result: Result) -> None:
    for name in SUBJECTS:
        expected = DISTRIBUTION | NOVELTY | CLOSENESS | COST
        expected |= DIVERSITY if name not in ("base", "teacher_full") else set()
        expected |= NOISE_FLOOR if name == "teacher" else set()
        assert result.row(name) == expected


def test_controls_have_the_metrics_that_apply_to_real_pictures(result: Result) -> None:
    assert result.row("real") == {"num_images"}
    assert result.row("real_decoded") == DISTRIBUTION | NOVELTY
    assert result.row("real_train") == DISTRIBUTION
    assert result.row("real_halves") == DISTRIBUTION | NOVELTY
    assert result.row("train_decoded") == NOVELTY | {"num_images"}
    assert {"real.attribute_accuracy", "real_decoded.attribute_accuracy_low"} <= set(result.metrics)
    assert result.row("process") == {"num_threads", "peak_rss_mib"}


def test_numbers_of_pictures(result: Result) -> None:
    controls = {"real": 4, "real_decoded": 4, "real_train": 4, "train_decoded": 4, "real_halves": 2}
    for name, num in {**dict.fromkeys(SUBJECTS, 4), "teacher_full": 3, **controls}.items():
        assert result.metrics[f"{name}.num_images"] == num
    assert result.metrics["distilled.num_diversity_pairs"] == 3


def test_every_metric_is_in_the_catalog(result: Result) -> None:
    names = {key.partition(".")[2] for key in result.metrics}
    assert [name for name in names if not is_companion(name) and describe(name) is None] == []


def test_the_teacher_is_compared_with_itself_and_with_its_other_seed(result: Result) -> None:
    metrics = result.metrics

    assert metrics[f"teacher.{PD}"] == pytest.approx(0, abs=1e-6)
    assert metrics["teacher_full.speedup"] == 1
    assert metrics[f"teacher.{PD}_noise_floor"] == metrics[f"teacher.{PD}_diversity"] > 0


def test_the_full_teacher_is_a_control_of_the_first_pictures(result: Result) -> None:
    """The teacher's own scheduler at all its steps: another sampler of the same noise, so near and not equal."""
    metrics = result.metrics
    assert metrics["teacher_full.num_inference_steps"] == 4
    assert 0 < metrics[f"teacher_full.{PD}"] < metrics[f"teacher.{PD}_noise_floor"]


def test_few_step_teachers_differ_from_the_teacher_and_from_each_other(result: Result) -> None:
    metrics = result.metrics

    assert metrics["teacher_few_steps.num_inference_steps"] == 2
    assert metrics["teacher_few_steps_dpm.num_inference_steps"] == 2
    assert 0 < metrics[f"teacher_few_steps.{PD}"] != metrics[f"teacher_few_steps_dpm.{PD}"] > 0


def test_the_subjects_file_has_its_headline_metrics_with_one_flag(result: Result) -> None:
    assert {FD, f"{FD}_n_small", KD, PD, "recall", "latency_ms", "num_images"} <= set(result.subject)
    assert [name for name in result.subject if is_companion(name)] == [f"{FD}_n_small"]
    for name, value in result.subject.items():
        assert value == pytest.approx(result.metrics[f"distilled.{name}"], rel=1e-3)


def test_the_base_has_the_teachers_latency_and_few_steps_are_timed_more_often(result: Result) -> None:
    metrics = result.metrics

    assert all(metrics[f"base.{name}"] == metrics[f"teacher.{name}"] for name in LATENCY)
    assert metrics["teacher.num_latency_repeats"] == 4  # of three steps each, twelve in a round
    assert metrics["distilled.num_latency_repeats"] == 6


def test_the_sweep_has_a_row_per_number_of_steps(result: Result) -> None:
    head, *rows = result.sweep

    assert head == ["subject", "steps", "latency_ms", "metric", "distance", "low", "high", "num_images"]
    assert [tuple(row[:2]) for row in rows] == [
        ("teacher_pndm", "2"),
        ("teacher_pndm", "3"),
        ("teacher_dpm", "2"),
        ("teacher_dpm", "3"),
        ("distilled", "1"),
        ("distilled", "2"),
    ]
    for row in rows:
        latency, distance, low, high = (float(row[index]) for index in (2, 4, 5, 6))
        assert (row[3], row[7]) == (FD, "3")
        assert latency > 0
        assert low <= distance <= high


def test_the_sweep_has_the_latencies_of_the_metrics(result: Result) -> None:
    latency = {(row[0], row[1]): float(row[2]) for row in result.sweep[1:]}

    assert latency["teacher_dpm", "3"] == result.metrics["teacher.latency_ms"]
    assert latency["distilled", "2"] == result.metrics["distilled.latency_ms"]


def test_another_subject_uses_the_caches(result: Result, models: Models, tiny_dataset_dir: Path, folder: Path) -> None:
    before = _files(folder / "drawn") | _files(folder / "cache")

    after = _evaluate(models, tiny_dataset_dir, folder, subject="teacher")

    assert _files(folder / "drawn") | _files(folder / "cache") == before
    assert {name for name in after.metrics if after.metrics[name] != result.metrics[name]} <= {"process.peak_rss_mib"}
    assert after.subject["latency_ms"] == pytest.approx(result.metrics["teacher.latency_ms"], rel=1e-3)


@pytest.mark.slow
def test_changed_metrics_code_draws_and_times_nothing(
    result: Result, models: Models, tiny_dataset_dir: Path, folder: Path
) -> None:
    """The metrics cache's folder is named after all code, the drawings' only after the code that draws."""
    before = _files(folder / "drawn")

    after = _evaluate(models, tiny_dataset_dir, folder, cache="cache of other code")

    assert _files(folder / "drawn") == before
    assert {name for name in after.metrics if after.metrics[name] != result.metrics[name]} <= {"process.peak_rss_mib"}


@pytest.mark.slow
def test_pictures_drawn_again_give_equal_metrics(
    result: Result, models: Models, tiny_dataset_dir: Path, folder: Path
) -> None:
    after = _evaluate(models, tiny_dataset_dir, folder, drawn="drawn again", cache="cache of these")

    measured = {f"{name}.{metric}" for name in SUBJECTS for metric in LATENCY} | {"process.peak_rss_mib"}
    assert {name for name in after.metrics if after.metrics[name] != result.metrics[name]} <= measured


def test_an_unreliable_classifier_is_a_warning(
    result: Result, models: Models, tiny_dataset_dir: Path, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    _evaluate(models, tiny_dataset_dir, folder)

    assert result.metrics["real.attribute_accuracy"] < 0.95
    warning = capsys.readouterr().err
    assert re.search(r"below 95% in attribute_accuracy \(.*, attribute_accuracy_item \(", warning)
    assert "Raise evaluate.classifier_steps" in warning


def test_a_small_test_split_is_an_error(models: Models, tiny_dataset_dir: Path, tmp_path: Path) -> None:
    rows = (tiny_dataset_dir / "metadata.jsonl").read_text().splitlines(keepends=True)
    (tmp_path / "metadata.jsonl").write_text("".join(rows[:-1]))

    with pytest.raises(StageError, match=r"ingest\.test_fraction: leaves 3 pictures in the test split.*raise it"):
        _evaluate(models, tmp_path, tmp_path)
