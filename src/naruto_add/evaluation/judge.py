"""Figures of one set of pictures against others, by the networks that the parameters name; what is slow is cached."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from naruto_add.catalog import FEW
from naruto_add.compute import default_device
from naruto_add.evaluation.cache import Arrays, cached, digest
from naruto_add.evaluation.clip import OFF, ClipNetwork, clip_scores, load_clip
from naruto_add.evaluation.features import (
    FeatureNetwork,
    Images,
    extract_features,
    load_feature_network,
)
from naruto_add.evaluation.frechet import Features, frechet_distance, kernel_distance, kernel_interval
from naruto_add.evaluation.intervals import frechet_interval, mean_interval
from naruto_add.evaluation.manifold import manifold_scores
from naruto_add.evaluation.memorization import memorization
from naruto_add.evaluation.perceptual import PerceptualNetwork, load_perceptual_network, perceptual_distances
from naruto_add.params import Evaluate
from naruto_add.runtime import local_folder

ENOUGH_IMAGES = 2048
"""Below it a Frechet distance on Inception's 2048 features has a rank-deficient covariance, and whatever else compares
two sets depends on their numbers or is uncertain: `_n_small` says so beside each."""

Metrics = dict[str, float | int]


@dataclass(frozen=True)
class Judge:
    """The networks that judge, the seed of intervals, and where results are kept."""

    features: FeatureNetwork
    perceptual: PerceptualNetwork
    clip: ClipNetwork | None
    seed: int
    cache_dir: Path


def load_judge(params: Evaluate, cache_dir: Path) -> Judge:
    """Raises StageError where a network's weights cannot be had."""
    device = default_device()
    return Judge(
        features=load_feature_network(params.features, device),
        perceptual=load_perceptual_network(params.perceptual, device),
        clip=None if params.clip_score == OFF else load_clip(params.clip_score, device),
        seed=params.seed,
        cache_dir=cache_dir,
    )


def distribution(images: Images, real: Images, *, judge: Judge) -> Metrics:
    """Frechet and kernel distance to the real pictures with their intervals, and overlap with them."""
    return compared(image_features(images, judge), image_features(real, judge), judge=judge)


def compared(features: Features, reference: Features, *, judge: Judge) -> Metrics:
    """The same of `image_features`, of which parts may be taken: they cost more than what is made of them."""
    frechet, kernel = judge.features.frechet_name, judge.features.kernel_name
    figures = cached(
        judge.cache_dir,
        ["distances", judge.seed, digest(features), digest(reference)],
        lambda: _distances(features, reference, seed=judge.seed),
    )
    overlap = {name: float(value) for name, value in vars(manifold_scores(features, reference)).items()}
    few = int(min(len(features), len(reference)) < ENOUGH_IMAGES)
    return {
        "num_images": len(features),
        **_with_interval(frechet, figures["frechet"]),
        **_with_interval(kernel, figures["kernel"]),
        **overlap,
        **{f"{name}{FEW}": few for name in (frechet, kernel, *overlap)},
    }


def closeness(images: Images, others: Images, *, judge: Judge) -> Metrics:
    """Mean perceptual distance to the pictures at the same places."""
    return _mean_distance(judge.perceptual.metric_name, images, others, judge)


def diversity(images: Images, reseeded: Images, *, judge: Judge) -> Metrics:
    """Mean perceptual distance of two pictures of one prompt, from different initial noise."""
    name = f"{judge.perceptual.metric_name}_diversity"
    return {"num_diversity_pairs": len(images), **_mean_distance(name, images, reseeded, judge)}


def noise_floor(teacher: Images, reseeded: Images, *, judge: Judge) -> Metrics:
    """What the distance to the teacher is worth: the teacher's own, to itself from different initial noise."""
    return _mean_distance(f"{judge.perceptual.metric_name}_noise_floor", teacher, reseeded, judge)


def caption_fit(images: Images, captions: Sequence[str], *, judge: Judge) -> Metrics:
    """The mean CLIP score of pictures and their captions; nothing without a CLIP."""
    clip = judge.clip
    if clip is None:
        return {}
    scores = cached(
        judge.cache_dir,
        ["clip", clip.name, *local_folder(clip.name), list(captions), digest(images)],
        lambda: {"scores": clip_scores(images, captions, clip)},
    )["scores"]
    return _with_interval("clip_score", [float(scores.mean()), *mean_interval(scores, seed=judge.seed)])


def novelty(drawn: Features, held_out: Features, train: Features) -> Metrics:
    """How near drawn thumbnails are to those of training pictures, by the measure of held-out real ones."""
    found = memorization(drawn, held_out, train)
    return {"nearest_train_ratio": found.ratio, "near_train_fraction": found.near_fraction}


def image_features(images: Images, judge: Judge) -> Features:
    """One row per picture, by the judge's feature network."""
    return cached(
        judge.cache_dir,
        ["features", judge.features.name, digest(images)],
        lambda: {"features": extract_features(images, judge.features)},
    )["features"]


def _distances(features: Features, reference: Features, *, seed: int) -> Arrays:
    frechet = frechet_distance(features, reference)
    kernel = kernel_distance(features, reference)
    return {
        "frechet": np.array([frechet, *frechet_interval(features, reference, distance=frechet, seed=seed)]),
        "kernel": np.array([kernel, *kernel_interval(features, reference, seed=seed)]),
    }


def _mean_distance(name: str, images: Images, others: Images, judge: Judge) -> Metrics:
    distances = _perceptual(images, others, judge)
    return _with_interval(name, [float(distances.mean()), *mean_interval(distances, seed=judge.seed)])


def _perceptual(images: Images, others: Images, judge: Judge) -> NDArray[np.float64]:
    return cached(
        judge.cache_dir,
        ["perceptual", judge.perceptual.name, digest(images), digest(others)],
        lambda: {"distances": perceptual_distances(images, others, network=judge.perceptual)},
    )["distances"]


def _with_interval(name: str, values: Sequence[float] | NDArray[np.float64]) -> Metrics:
    value, low, high = (float(item) for item in values)
    return {name: value, f"{name}_low": low, f"{name}_high": high}
