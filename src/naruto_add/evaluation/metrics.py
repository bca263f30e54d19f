"""Third step of the evaluation: metrics with their intervals, computed from the measurements."""

from collections.abc import Mapping
from functools import partial
from pathlib import Path

import numpy as np

from naruto_add.evaluation.cache import Arrays, cached_arrays
from naruto_add.evaluation.catalog import FEW
from naruto_add.evaluation.features import FeatureNetwork
from naruto_add.evaluation.frechet import Features, frechet_distance, kernel_distance
from naruto_add.evaluation.intervals import Values, frechet_interval, kernel_interval, mean_interval
from naruto_add.evaluation.manifold import manifold_scores
from naruto_add.evaluation.measure import Measurements, MetricNetworks
from naruto_add.evaluation.memorization import memorization
from naruto_add.imaging.similarity import Vectors
from naruto_add.runtime.cache import hash_array

ENOUGH_IMAGES = 2048
"""With fewer pictures the covariance of Inception's 2048 features is rank-deficient, and other comparisons of two sets
depend on their sizes or are uncertain; the flag `_n_small` of a metric says so."""

Metrics = dict[str, float | int]
Rows = dict[str, Metrics]
"""Metrics by the name of their row in metrics/evaluate.json."""


def quality_rows(
    measured: Measurements, networks: MetricNetworks, *, train_thumbnails: Vectors, seed: int, cache_dir: Path
) -> Rows:
    """Metrics of the pictures' quality: all except attribute accuracy and cost."""
    compare = partial(distribution, network=networks.features, seed=seed, cache_dir=cache_dir)
    name = networks.perceptual.metric_name
    to_teacher, between_seeds, clip = measured.teacher_distances, measured.seed_distances, measured.clip_scores
    return merge_rows(
        {row: {"num_images": len(measured.thumbnails[row])} for row in ("real", "train_decoded")},
        {row: compare(*pair) for row, pair in _pairs_with_real(measured.features).items()},
        {row: novelty(*pair, train_thumbnails) for row, pair in _pairs_with_real(measured.thumbnails).items()},
        {row: mean_metric(name, values, seed=seed) for row, values in to_teacher.items()},
        {row: {"num_diversity_pairs": len(values)} for row, values in between_seeds.items()},
        {row: mean_metric(f"{name}_diversity", values, seed=seed) for row, values in between_seeds.items()},
        {"teacher": mean_metric(f"{name}_noise_floor", between_seeds["teacher"], seed=seed)},
        {row: mean_metric("clip_score", values, seed=seed) for row, values in clip.items()},
    )


def sweep_metrics(measured: Measurements, networks: MetricNetworks, *, seed: int, cache_dir: Path) -> list[Metrics]:
    """Distances to the test split for each point of the sweep, in its order."""
    compare = partial(distribution, network=networks.features, seed=seed, cache_dir=cache_dir)
    return [compare(features, measured.features["real"]) for features in measured.sweep_features]


def distribution(
    features: Features, reference: Features, *, network: FeatureNetwork, seed: int, cache_dir: Path
) -> Metrics:
    """Frechet and kernel distance of two sets with their intervals, and how far the sets overlap."""
    distances = cached_arrays(
        cache_dir,
        *("distances", seed, hash_array(features), hash_array(reference)),
        compute=lambda: _distances(features, reference, seed=seed),
    )
    overlap = {name: float(value) for name, value in vars(manifold_scores(features, reference)).items()}
    is_few = int(min(len(features), len(reference)) < ENOUGH_IMAGES)
    return {
        "num_images": len(features),
        **_with_interval(network.frechet_name, *distances["frechet"]),
        **_with_interval(network.kernel_name, *distances["kernel"]),
        **overlap,
        **{f"{name}{FEW}": is_few for name in (network.frechet_name, network.kernel_name, *overlap)},
    }


def novelty(drawn: Vectors, test: Vectors, train: Vectors) -> Metrics:
    """Similarity of thumbnails to those of training pictures, relative to that of real test pictures."""
    found = memorization(drawn, test, train)
    return {"nearest_train_ratio": found.ratio, "near_train_fraction": found.near_fraction}


def mean_metric(name: str, values: Values, *, seed: int) -> Metrics:
    """The mean of one value per picture, with its interval."""
    return _with_interval(name, values.mean(), *mean_interval(values, seed=seed))


def merge_rows(*parts: Mapping[str, Metrics]) -> Rows:
    """One row per name, with the metrics of all parts."""
    rows: Rows = {}
    for part in parts:
        for name, metrics in part.items():
            rows[name] = rows.get(name, {}) | metrics
    return rows


def _pairs_with_real(sets: Mapping[str, Features]) -> dict[str, tuple[Features, Features]]:
    """Every set paired with the test split, and as `real_halves` the two halves of the test split."""
    real = sets["real"]
    pairs = {name: (vectors, real) for name, vectors in sets.items() if name != "real"}
    return pairs | {"real_halves": (real[::2], real[1::2])}


def _distances(features: Features, reference: Features, *, seed: int) -> Arrays:
    frechet = frechet_distance(features, reference)
    kernel = kernel_distance(features, reference)
    return {
        "frechet": np.array([frechet, *frechet_interval(features, reference, distance=frechet, seed=seed)]),
        "kernel": np.array([kernel, *kernel_interval(features, reference, seed=seed)]),
    }


def _with_interval(name: str, value: float, low: float, high: float) -> Metrics:
    return {name: float(value), f"{name}_low": float(low), f"{name}_high": float(high)}
