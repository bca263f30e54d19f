"""Third step of the evaluation: metrics with their intervals, computed from the measurements."""

from collections.abc import Mapping
from functools import partial

from naruto_add.evaluation.catalog import FEW
from naruto_add.evaluation.estimates import Estimates, Metrics, Rows, fraction, merge_rows
from naruto_add.evaluation.features import FeatureNetwork
from naruto_add.evaluation.frechet import Features
from naruto_add.evaluation.manifold import manifold_scores
from naruto_add.evaluation.measure import Measurements, MetricNetworks
from naruto_add.evaluation.memorization import memorization
from naruto_add.imaging.similarity import Vectors

ENOUGH_IMAGES = 2048
"""With fewer pictures the covariance of Inception's 2048 features is rank-deficient, and other comparisons of two sets
depend on their sizes or are uncertain; the flag `_n_small` of a metric says so."""


def quality_rows(
    measured: Measurements, networks: MetricNetworks, estimates: Estimates, *, train_thumbnails: Vectors
) -> Rows:
    """Metrics of the pictures' quality: all except attribute accuracy and cost."""
    compare = partial(distribution, network=networks.features, estimates=estimates)
    name, mean = networks.perceptual.metric_name, estimates.mean
    to_teacher, between_seeds, clip = measured.teacher_distances, measured.seed_distances, measured.clip_scores
    return merge_rows(
        {row: {"num_images": len(measured.thumbnails[row])} for row in ("real", "train_decoded")},
        {row: compare(*pair) for row, pair in _pairs_with_real(measured.features).items()},
        {row: novelty(*pair, train_thumbnails) for row, pair in _pairs_with_real(measured.thumbnails).items()},
        {row: mean(name, values) for row, values in to_teacher.items()},
        {row: {"num_diversity_pairs": len(values)} for row, values in between_seeds.items()},
        {row: mean(f"{name}_diversity", values) for row, values in between_seeds.items()},
        {"teacher": mean(f"{name}_noise_floor", between_seeds["teacher"])},
        {row: mean("clip_score", values) for row, values in clip.items()},
    )


def sweep_metrics(measured: Measurements, networks: MetricNetworks, estimates: Estimates) -> list[Metrics]:
    """Distances to the test split for each point of the sweep, in its order."""
    compare = partial(distribution, network=networks.features, estimates=estimates)
    return [compare(features, measured.features["real"]) for features in measured.sweep_features]


def distribution(features: Features, reference: Features, *, network: FeatureNetwork, estimates: Estimates) -> Metrics:
    """Frechet and kernel distance of two sets with their intervals, and how far the sets overlap."""
    names = {"frechet_name": network.frechet_name, "kernel_name": network.kernel_name}
    overlap = {name: float(value) for name, value in vars(manifold_scores(features, reference)).items()}
    is_few = int(min(len(features), len(reference)) < ENOUGH_IMAGES)
    return {
        "num_images": len(features),
        **estimates.distances(features, reference, **names),
        **overlap,
        **{f"{name}{FEW}": is_few for name in (*names.values(), *overlap)},
    }


def novelty(drawn: Vectors, test: Vectors, train: Vectors) -> Metrics:
    """Similarity of thumbnails to those of training pictures, relative to that of real test pictures.

    The interval of the fraction is that of other drawn pictures, compared with the same test pictures.
    """
    found = memorization(drawn, test, train)
    near = fraction("near_train_fraction", found.near_fraction, num=len(drawn))
    return {"nearest_train_ratio": found.ratio, **near}


def _pairs_with_real(sets: Mapping[str, Features]) -> dict[str, tuple[Features, Features]]:
    """Every set paired with the test split, and as `real_halves` the two halves of the test split."""
    real = sets["real"]
    pairs = {name: (vectors, real) for name, vectors in sets.items() if name != "real"}
    return pairs | {"real_halves": (real[::2], real[1::2])}
