"""The whole evaluation on a tiny pipeline: its files, its keys, what another subject costs."""

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from naruto_add.catalog import describe, is_companion
from naruto_add.evaluation import generate, judge, timing
from naruto_add.evaluation.evaluate import evaluate
from naruto_add.evaluation.subjects import Models
from naruto_add.params import Base, Evaluate, Sampling

Run = Callable[..., tuple[dict[str, float], dict[str, float]]]

SUBJECTS = ("base", "teacher", "student", "distilled", "teacher_few_steps", "teacher_few_steps_dpm")
ATTRIBUTE = re.compile("attribute|num_named")
FD, KD, PD = "fd_efficientnet_lite1", "kd_efficientnet_lite1", "pd_efficientnet_lite1"
OVERLAP = ("precision", "recall", "density", "coverage")
DIVERSITY = {"num_diversity_pairs", *(f"{PD}_diversity{end}" for end in ("", "_low", "_high"))}
QUALITY_METRICS = {
    "num_images",
    *(f"{name}_n_small" for name in (FD, KD, *OVERLAP)),
    *DIVERSITY,
    *(f"{name}{end}" for name in (FD, KD, PD) for end in ("", "_low", "_high")),
    *OVERLAP,
    *("nearest_train_ratio", "near_train_fraction"),
}
TIMES = {
    "latency_ms",
    "latency_p95_ms",
    "latency_batch8_ms",
    "latency_batch8_p95_ms",
    "speedup",
    "images_per_second",
}
COST_METRICS = {
    *TIMES,
    "num_inference_steps",
    "num_latency_repeats",
    "params_m",
    "pipeline_params_m",
    "size_mib",
}


def _evaluate(**changes: Any) -> Evaluate:
    values = {
        "seed": 0,
        "subject": "distilled",
        "num_images": 0,
        "batch_size": 2,
        "features": "embedded",
        "perceptual": "embedded",
        "clip_score": "off",
        "latency_repeats": 1,
        "student_sweep": [1, 2],
        "teacher_sweep": [2, 3],
        "few_images": 3,
        "classifier_steps": 1,
        "classifier_learning_rate": 1e-3,
    }
    return Evaluate(**values | changes)


def _other_weights(source: Path, target: Path, *, seed: int) -> Path:
    """A copy of a model folder whose first U-Net tensors differ."""
    shutil.copytree(source, target)
    path = next(target.rglob("unet/*.safetensors"), None) or next(target.glob("*.safetensors"))
    generator = torch.Generator().manual_seed(seed)
    state = {name: t + 0.05 * torch.randn(t.shape, generator=generator) for name, t in load_file(path).items()}
    save_file(state, path, metadata={"format": "pt"})
    return target


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("evaluate")


@pytest.fixture(autouse=True)
def short_rounds(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(timing, "ROUND_STEPS", 6)


@pytest.fixture
def sweep_path(folder: Path) -> Path:
    return folder / "sweep.tsv"


@pytest.fixture(scope="module")
def run(tiny_pipeline_dir: Path, tiny_dataset_dir: Path, folder: Path) -> Run:
    teacher_dir = _other_weights(tiny_pipeline_dir, folder / "teacher", seed=1)
    student_dir = _other_weights(tiny_pipeline_dir / "unet", folder / "student", seed=2)
    distilled_dir = _other_weights(tiny_pipeline_dir / "unet", folder / "distilled", seed=3)

    models = Models(
        base=Base(model=str(tiny_pipeline_dir), revision="", variant="", precision="fp32", resolution_px=32),
        sampling=Sampling(teacher_steps=3, guidance_scale=2.0, student_scheduler="ddim"),
        num_student_steps=2,
        teacher_dir=teacher_dir,
        student_dir=student_dir,
        distilled_dir=distilled_dir,
    )

    def run_once(
        params: Evaluate, drawn_name: str = "drawn", cache_name: str = "cache"
    ) -> tuple[dict[str, float], dict[str, float]]:
        evaluate(
            params,
            models=models,
            prompt_template="{caption}, drawn",
            dataset_dir=tiny_dataset_dir,
            drawn_dir=folder / drawn_name,
            cache_dir=folder / cache_name,
            metrics_path=folder / "evaluate.json",
            subject_path=folder / "subject.json",
            sweep_path=folder / "sweep.tsv",
        )
        return json.loads((folder / "evaluate.json").read_text()), json.loads((folder / "subject.json").read_text())

    return run_once


def test_every_subject_has_every_metric(run: Run) -> None:
    metrics, subject = run(_evaluate())

    for name in SUBJECTS:
        row = {key.split(".", 1)[1] for key in metrics if key.startswith(f"{name}.")}
        floor = {f"{PD}_noise_floor{end}" for end in ("", "_low", "_high")} if name == "teacher" else set()
        absent = DIVERSITY if name == "base" else set()
        assert {key for key in row if not ATTRIBUTE.search(key)} == (QUALITY_METRICS | COST_METRICS | floor) - absent
        assert 0 <= metrics[f"{name}.attribute_accuracy"] <= 1
    assert {FD, f"{FD}_n_small", KD, PD, "recall", "latency_ms", "num_images"} <= set(subject)
    assert not [name for name in subject if name.endswith(("_low", "_high"))]
    assert "real.attribute_accuracy" in metrics
    assert all(metrics[f"distilled.{key}"] == pytest.approx(value, rel=1e-3) for key, value in subject.items())
    assert metrics["distilled.num_images"] == metrics["real.num_images"] == 4  # 0 took all that are held out
    assert metrics["teacher.pd_efficientnet_lite1"] == pytest.approx(0, abs=1e-6)
    assert metrics["teacher.speedup"] == 1
    hurried = ("teacher_few_steps", "teacher_few_steps_dpm")
    assert {metrics[f"{name}.num_inference_steps"] for name in hurried} == {2}
    assert 0 < metrics[f"{hurried[0]}.{PD}"] != metrics[f"{hurried[1]}.{PD}"] > 0
    assert metrics[f"teacher.{PD}_noise_floor"] == metrics[f"teacher.{PD}_diversity"] > 0
    assert metrics["teacher.size_mib"] == pytest.approx(metrics["base.size_mib"])
    assert metrics["distilled.fd_efficientnet_lite1_n_small"] == 1
    assert metrics["process.peak_rss_mib"] > 0
    assert metrics["process.num_threads"] == torch.get_num_threads()
    names = {key.partition(".")[2] for key in metrics}
    assert [name for name in names if not is_companion(name) and describe(name) is None] == []
    assert {name for name in metrics if name.startswith("train_decoded.")} == {
        f"train_decoded.{name}" for name in ("num_images", "nearest_train_ratio", "near_train_fraction")
    }
    assert metrics["real_train.num_images"] == 4
    assert metrics["real_halves.num_images"] == 2
    halves = {key.split(".", 1)[1] for key in metrics if key.startswith("real_halves.")}
    assert halves == {name for name in QUALITY_METRICS - DIVERSITY if not name.startswith(PD)}
    real_decoded = {key.split(".", 1)[1] for key in metrics if key.startswith("real_decoded.")}
    assert {key for key in real_decoded if not ATTRIBUTE.search(key)} == halves
    assert {"attribute_accuracy", "attribute_accuracy_low", "num_named_headwear"} <= real_decoded
    assert metrics["real_decoded.num_images"] == 4
    assert [name for name in subject if name.endswith("_n_small")] == [f"{FD}_n_small"]


def test_base_takes_as_long_as_the_teacher_and_few_steps_are_timed_more_often(run: Run) -> None:
    metrics, _ = run(_evaluate())

    assert all(metrics[f"base.{name}"] == metrics[f"teacher.{name}"] for name in TIMES)
    assert metrics["teacher.num_latency_repeats"] == 2  # of three steps each, to make six
    assert metrics["distilled.num_latency_repeats"] == 3


def test_the_sweep_has_a_row_for_every_number_of_steps(run: Run, sweep_path: Path) -> None:
    run(_evaluate())

    head, *rows = (line.split("\t") for line in sweep_path.read_text().splitlines())

    assert head == ["subject", "steps", "latency_ms", "metric", "distance", "low", "high", "num_images"]
    assert [tuple(row[:2]) for row in rows] == [
        ("teacher", "2"),
        ("teacher", "3"),
        ("distilled", "1"),
        ("distilled", "2"),
    ]
    assert {(row[3], row[7]) for row in rows} == {(FD, "3")}
    for row in rows:
        latency, distance, low, high = (float(row[place]) for place in (2, 4, 5, 6))
        assert latency > 0
        assert low <= distance <= high


def test_the_sweep_and_the_table_have_one_time(run: Run, sweep_path: Path) -> None:
    metrics, _ = run(_evaluate())

    times = {tuple(line.split("\t")[:2]): line.split("\t")[2] for line in sweep_path.read_text().splitlines()}

    assert float(times["teacher", "3"]) == metrics["teacher.latency_ms"]
    assert float(times["distilled", "2"]) == metrics["distilled.latency_ms"]


def _refuse(*_args: object, **_kwargs: object) -> None:
    raise AssertionError("called in spite of the cache")


def test_an_edited_judge_draws_and_times_nothing_and_gives_the_same_figures(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its code is in the name of the folder of what is made of pictures, and of no other."""
    before, _ = run(_evaluate())

    for name in ("draw_pixels", "encode_pixels"):
        monkeypatch.setattr(generate, name, _refuse)
    after, _ = run(_evaluate(), cache_name="cache of other code")

    assert {name for name in after if after[name] != before[name]} <= {"process.peak_rss_mib"}


def test_pictures_drawn_again_give_the_same_figures(run: Run) -> None:
    before, _ = run(_evaluate())
    after, _ = run(_evaluate(), "drawn again", "judged again")

    measured = {f"{name}.{time}" for name in SUBJECTS for time in TIMES} | {"process.peak_rss_mib"}
    assert {name for name in after if after[name] != before[name]} <= measured


def test_an_unsure_classifier_is_told_of(run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    metrics, _ = run(_evaluate())

    assert metrics["real.attribute_accuracy"] < 0.95
    told = capsys.readouterr().err
    assert re.search(r"less than 95% of attribute_accuracy \(.*, attribute_accuracy_item \(", told)
    assert "or raise evaluate.classifier_steps" in told


def test_another_subject_draws_and_times_nothing(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    before, _ = run(_evaluate())

    monkeypatch.setattr(generate, "draw_pixels", _refuse)
    monkeypatch.setattr(judge, "extract_features", _refuse)
    monkeypatch.setattr(judge, "perceptual_distances", _refuse)
    after, subject = run(_evaluate(subject="teacher"))

    assert after == before
    assert subject["latency_ms"] == pytest.approx(before["teacher.latency_ms"], rel=1e-3)
