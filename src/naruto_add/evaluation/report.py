"""Every subject's figures, side by side: quality against held-out pictures, closeness to the teacher, speed, size.

Generated sets, features, distances and timings are cached, so that another `evaluate.subject` costs seconds.
"""

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from naruto_add.compute import default_device
from naruto_add.data.dataset import Example, load_split
from naruto_add.data.pixels import load_pixels
from naruto_add.data.prompts import fill_template
from naruto_add.evaluation.cache import Arrays, cached
from naruto_add.evaluation.features import FeatureNetwork, Images, extract_features, load_feature_network
from naruto_add.evaluation.frechet import frechet_distance, kernel_distance, kernel_interval
from naruto_add.evaluation.generate import Subject, as_images, at_steps, draw_set, load_subjects
from naruto_add.evaluation.perceptual import PerceptualNetwork, load_perceptual_network, perceptual_distances
from naruto_add.evaluation.speed import latencies_ms
from naruto_add.files import write_json
from naruto_add.params import Base, Evaluate, Sampling
from naruto_add.runtime import StageError, progress

SUBJECTS = ("base", "teacher", "student", "distilled")

Metrics = dict[str, float | int]


@dataclass(frozen=True)
class _Judge:
    """The networks that judge, and where their results are kept."""

    features: FeatureNetwork
    perceptual: PerceptualNetwork
    seed: int
    cache_dir: Path


def run_evaluate(
    params: Evaluate,
    *,
    base: Base,
    sampling: Sampling,
    prompt_template: str,
    num_student_steps: int,
    dataset_dir: Path,
    teacher_dir: Path,
    student_dir: Path,
    distilled_dir: Path,
    cache_dir: Path,
    metrics_path: Path,
    subject_path: Path,
) -> None:
    """Write every subject's metrics as `<subject>.<metric>`, and those of `params.subject` under their bare names."""
    held_out = load_split(dataset_dir, "test")
    _check_enough(params, len(held_out))
    judge = _load_judge(params, cache_dir)
    subjects = load_subjects(
        base,
        sampling,
        num_student_steps=num_student_steps,
        teacher_dir=teacher_dir,
        student_dir=student_dir,
        distilled_dir=distilled_dir,
    )
    prompts = [fill_template(prompt_template, example.caption) for example in _first(held_out, params.num_images)]
    sets = _draw_sets(subjects, prompts, params=params, num_student_steps=num_student_steps, cache_dir=cache_dir)

    real = _load_images(held_out)
    train = _load_images(_first(load_split(dataset_dir, "train"), len(prompts)))
    metrics: dict[str, Metrics] = {
        name: _quality(drawn["images"], real, sets["teacher"]["images"], judge=judge) for name, drawn in sets.items()
    }
    metrics["teacher_reseeded"] = _noise_floor(
        subjects["teacher"], prompts, sets["teacher"], params=params, judge=judge
    )
    metrics["real_train"] = _distribution(train, real, judge=judge)
    metrics["real"] = {"num_images": len(real)}
    for name, values in _cost(subjects, prompts, sets, params=params, cache_dir=cache_dir).items():
        metrics[name] |= values

    write_json(metrics_path, {f"{name}.{key}": value for name, row in metrics.items() for key, value in row.items()})
    write_json(subject_path, metrics[params.subject])


def _load_judge(params: Evaluate, cache_dir: Path) -> _Judge:
    device = default_device()
    return _Judge(
        features=load_feature_network(params.features, device),
        perceptual=load_perceptual_network(params.perceptual, device),
        seed=params.seed,
        cache_dir=cache_dir,
    )


def _check_enough(params: Evaluate, num_held_out: int) -> None:
    if params.num_images == 1:
        raise StageError("evaluate.num_images: 1 picture has no distribution; use at least 2, or 0 for all")
    if num_held_out < 2:
        raise StageError(f"ingest.test_fraction: leaves {num_held_out} held-out picture; evaluate needs at least 2")


def _first(examples: list[Example], num: int) -> list[Example]:
    """The first `num`, or all of them for 0."""
    return examples[:num] if num else examples


def _load_images(examples: list[Example]) -> Images:
    return as_images(load_pixels(examples))


def _draw_sets(
    subjects: dict[str, Subject], prompts: list[str], *, params: Evaluate, num_student_steps: int, cache_dir: Path
) -> dict[str, Arrays]:
    """Each subject's pictures, and the teacher's at the student's number of steps."""
    all_subjects = subjects | {"teacher_fast": at_steps(subjects["teacher"], num_student_steps)}
    return {
        name: _drawn(subject, prompts, seed=params.seed, batch_size=params.batch_size, cache_dir=cache_dir)
        for name, subject in progress(all_subjects.items(), desc="evaluate: drawing", total=len(all_subjects))
    }


def _drawn(subject: Subject, prompts: list[str], *, seed: int, batch_size: int, cache_dir: Path) -> Arrays:
    return cached(
        cache_dir,
        ["images", subject.key(), prompts, seed, batch_size],
        lambda: draw_set(subject, prompts, seed=seed, batch_size=batch_size),
    )


def _quality(images: Images, real: Images, teacher: Images, *, judge: _Judge) -> Metrics:
    return _distribution(images, real, judge=judge) | _closeness(images, teacher, judge=judge)


def _distribution(images: Images, real: Images, *, judge: _Judge) -> Metrics:
    """Frechet and kernel distance to the real pictures; never without the number of pictures."""
    network = judge.features
    features, reference = _features(images, judge), _features(real, judge)
    low, high = kernel_interval(features, reference, seed=judge.seed)
    return {
        "num_images": len(images),
        network.frechet_name: frechet_distance(features, reference),
        network.kernel_name: kernel_distance(features, reference),
        f"{network.kernel_name}_low": low,
        f"{network.kernel_name}_high": high,
    }


def _features(images: Images, judge: _Judge) -> NDArray[np.float64]:
    return cached(
        judge.cache_dir,
        ["features", judge.features.name, _digest(images)],
        lambda: {"features": extract_features(images, judge.features)},
    )["features"]


def _closeness(images: Images, teacher: Images, *, judge: _Judge) -> Metrics:
    """Mean perceptual distance to the teacher's pictures of the same prompts and initial noise."""
    distances = cached(
        judge.cache_dir,
        ["perceptual", judge.perceptual.name, _digest(images), _digest(teacher)],
        lambda: {"distances": perceptual_distances(images, teacher, network=judge.perceptual)},
    )["distances"]
    return {judge.perceptual.metric_name: float(distances.mean())}


def _noise_floor(teacher: Subject, prompts: list[str], drawn: Arrays, *, params: Evaluate, judge: _Judge) -> Metrics:
    """How far the teacher is from itself at another seed: one batch is enough for a mean of pairs."""
    few = prompts[: params.batch_size]
    reseeded = _drawn(teacher, few, seed=params.seed + 1, batch_size=params.batch_size, cache_dir=judge.cache_dir)
    closeness = _closeness(reseeded["images"], drawn["images"][: len(few)], judge=judge)
    return {"num_images": len(few)} | closeness


def _cost(
    subjects: dict[str, Subject], prompts: list[str], sets: dict[str, Arrays], *, params: Evaluate, cache_dir: Path
) -> dict[str, Metrics]:
    """Steps, size and speed; all latencies are of one run, since they are compared with each other."""
    latencies = cached(
        cache_dir,
        ["latency", [subject.key() for subject in subjects.values()], params.latency_repeats, torch.get_num_threads()],
        lambda: {name: _latencies(subject, prompts[:1], params) for name, subject in subjects.items()},
    )
    medians = {name: float(np.median(latencies[name])) for name in subjects}
    return {
        name: {
            "num_inference_steps": subject.sampler.num_inference_steps,
            "latency_ms": medians[name],
            "speedup": medians["teacher"] / medians[name],
            "images_per_second": len(prompts) / float(sets[name]["seconds"]),
            "params_m": subject.params_m,
            "pipeline_params_m": subject.pipeline_params_m,
        }
        for name, subject in subjects.items()
    }


def _latencies(subject: Subject, prompt: list[str], params: Evaluate) -> NDArray[np.float64]:
    """Of the whole pipeline, for one picture."""
    return latencies_ms(
        lambda: draw_set(subject, prompt, seed=params.seed, batch_size=1), repeats=params.latency_repeats
    )


def _digest(images: Images) -> list[Any]:
    return [images.shape, hashlib.blake2b(np.ascontiguousarray(images).tobytes(), digest_size=16).hexdigest()]
