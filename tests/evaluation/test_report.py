import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from naruto_add.evaluation import generate, report
from naruto_add.evaluation.report import SUBJECTS, run_evaluate
from naruto_add.params import Base, Evaluate, Sampling
from naruto_add.runtime import StageError

Run = Callable[..., tuple[dict[str, float], dict[str, float]]]

SHARED_METRICS = {
    "num_images",
    "fd_efficientnet_lite1",
    "kd_efficientnet_lite1",
    "kd_efficientnet_lite1_low",
    "kd_efficientnet_lite1_high",
    "pd_efficientnet_lite1",
}
COST_METRICS = {
    "num_inference_steps",
    "latency_ms",
    "speedup",
    "images_per_second",
    "params_m",
    "pipeline_params_m",
}


def _evaluate(**changes: Any) -> Evaluate:
    values = {
        "seed": 0,
        "subject": "distilled",
        "num_images": 0,
        "batch_size": 2,
        "features": "embedded",
        "perceptual": "embedded",
        "latency_repeats": 1,
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
def run(tiny_pipeline_dir: Path, tiny_dataset_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Run:
    folder = tmp_path_factory.mktemp("evaluate")
    teacher_dir = _other_weights(tiny_pipeline_dir, folder / "teacher", seed=1)
    student_dir = _other_weights(tiny_pipeline_dir / "unet", folder / "student", seed=2)
    distilled_dir = _other_weights(tiny_pipeline_dir / "unet", folder / "distilled", seed=3)

    def evaluate(params: Evaluate) -> tuple[dict[str, float], dict[str, float]]:
        run_evaluate(
            params,
            base=Base(model=str(tiny_pipeline_dir), revision="", variant="", precision="fp32", resolution_px=32),
            sampling=Sampling(teacher_steps=3, guidance_scale=2.0, student_scheduler="ddim"),
            prompt_template="{caption}, drawn",
            num_student_steps=2,
            dataset_dir=tiny_dataset_dir,
            teacher_dir=teacher_dir,
            student_dir=student_dir,
            distilled_dir=distilled_dir,
            cache_dir=folder / "cache",
            metrics_path=folder / "evaluate.json",
            subject_path=folder / "subject.json",
        )
        return json.loads((folder / "evaluate.json").read_text()), json.loads((folder / "subject.json").read_text())

    return evaluate


def test_every_subject_has_every_metric(run: Run) -> None:
    metrics, subject = run(_evaluate())

    for name in SUBJECTS:
        row = {key.split(".", 1)[1] for key in metrics if key.startswith(f"{name}.")}
        assert row == SHARED_METRICS | COST_METRICS
    assert set(subject) == SHARED_METRICS | COST_METRICS
    assert all(metrics[f"distilled.{key}"] == value for key, value in subject.items())
    assert metrics["distilled.num_images"] == metrics["real.num_images"] == 4  # 0 took all that are held out
    assert metrics["teacher.pd_efficientnet_lite1"] == pytest.approx(0, abs=1e-6)
    assert metrics["teacher.speedup"] == 1
    assert metrics["teacher_fast.pd_efficientnet_lite1"] > 0
    assert metrics["teacher_reseeded.num_images"] == 2
    assert metrics["real_train.num_images"] == 4


def test_another_subject_draws_and_times_nothing(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    before, _ = run(_evaluate())

    def refuse(*_args: object, **_kwargs: object) -> None:
        raise AssertionError("called in spite of the cache")

    monkeypatch.setattr(generate, "sample_latents", refuse)
    monkeypatch.setattr(report, "extract_features", refuse)
    monkeypatch.setattr(report, "perceptual_distances", refuse)
    after, subject = run(_evaluate(subject="teacher"))

    assert after == before
    assert subject["latency_ms"] == before["teacher.latency_ms"]


def test_one_picture_is_refused(run: Run) -> None:
    with pytest.raises(StageError, match=r"evaluate\.num_images: 1 "):
        run(_evaluate(num_images=1))
