"""The metrics expose subjects that cheat, and do not accuse one that does not."""

from functools import partial
from pathlib import Path

import numpy as np
import pytest

from naruto_add.data.shinobi.draw import draw_shinobi
from naruto_add.evaluation.cache import Cache
from naruto_add.evaluation.estimates import Estimates, Metrics, merge_rows
from naruto_add.evaluation.features import FeatureNetwork, extract_features
from naruto_add.evaluation.metrics import distribution, novelty
from naruto_add.imaging.pixels import Images
from naruto_add.imaging.similarity import thumbnails

NUM = 40
NUM_TRAIN = 80
COARSE = FeatureNetwork("coarse", "fd_coarse", "kd_coarse", 4, lambda pixels: pixels.flatten(1) / 255)
"""Features are the colours of a 4x4 thumbnail: what is tested are the metrics, not the network."""


def _pictures(first: int, num: int) -> Images:
    drawings = [draw_shinobi(index, seed=0, size_px=32) for index in range(first, first + num)]
    return np.stack([np.asarray(drawing.image) for drawing in drawings])


@pytest.fixture(scope="module")
def train() -> Images:
    return _pictures(0, NUM_TRAIN)


@pytest.fixture(scope="module")
def real_images() -> Images:
    return _pictures(1000, NUM)


@pytest.fixture(scope="module")
def new_images() -> Images:
    """The pictures of a perfect subject: new ones of the same kind."""
    return _pictures(2000, NUM)


def _noise() -> Images:
    return np.random.default_rng(0).integers(0, 256, (NUM, 32, 32, 3), dtype=np.uint8)


def _distribution(images: Images, reference: Images, cache_dir: Path) -> Metrics:
    features, reference_features = (extract_features(item, COARSE) for item in (images, reference))
    return distribution(
        features, reference_features, network=COARSE, estimates=Estimates(seed=0, cache=Cache(cache_dir))
    )


def _novelty(images: Images, real_images: Images, train: Images) -> Metrics:
    return novelty(thumbnails(images), thumbnails(real_images), thumbnails(train))


def test_new_pictures_of_the_same_kind_are_close_diverse_and_new(
    new_images: Images, real_images: Images, train: Images, tmp_path: Path
) -> None:
    metrics = _distribution(new_images, real_images, tmp_path)
    new = _novelty(new_images, real_images, train)

    assert metrics["kd_coarse_low"] < 0 < metrics["kd_coarse_high"]
    assert metrics["precision"] > 0.7
    assert metrics["recall"] > 0.7
    assert metrics["coverage"] > 0.7
    assert new["nearest_train_ratio"] == pytest.approx(1, abs=0.15)
    assert new["near_train_fraction"] < 0.2
    assert new["near_train_fraction_low"] < 0.05 < new["near_train_fraction_high"]


def test_noise_has_larger_distances(new_images: Images, real_images: Images, tmp_path: Path) -> None:
    new, noise = (_distribution(images, real_images, tmp_path) for images in (new_images, _noise()))

    assert noise["fd_coarse_low"] > new["fd_coarse_high"]
    assert noise["kd_coarse_low"] > 0


def test_one_repeated_picture_has_no_recall(new_images: Images, real_images: Images, tmp_path: Path) -> None:
    metrics = _distribution(np.repeat(new_images[:1], NUM, axis=0), real_images, tmp_path)

    assert metrics["recall"] == 0
    assert metrics["coverage"] < 0.3


def test_copies_of_training_pictures_show_in_novelty_alone(real_images: Images, train: Images, tmp_path: Path) -> None:
    copies = train[:NUM]

    assert _distribution(copies, real_images, tmp_path)["precision"] > 0.7
    new = _novelty(copies, real_images, train)
    assert (new["nearest_train_ratio"], new["near_train_fraction"], new["near_train_fraction_high"]) == (0, 1, 1)
    assert new["near_train_fraction_low"] > 0.9


def test_a_set_is_at_distance_zero_to_itself(real_images: Images, tmp_path: Path) -> None:
    metrics = _distribution(real_images, real_images, tmp_path)

    assert metrics["fd_coarse"] == pytest.approx(0, abs=1e-9)
    assert metrics["kd_coarse"] < 0  # it is unbiased for independent sets, which these are not
    assert metrics["precision"] == metrics["recall"] == metrics["coverage"] == 1


def test_cached_metrics_equal_computed_ones(new_images: Images, real_images: Images, tmp_path: Path) -> None:
    compute = partial(_distribution, new_images, real_images)

    assert compute(tmp_path / "a") == compute(tmp_path / "a") == compute(tmp_path / "b")


@pytest.mark.parametrize(("num", "flag"), [(2047, 1), (2048, 0)])
def test_fewer_than_2048_pictures_are_flagged(num: int, flag: int, tmp_path: Path) -> None:
    features = np.random.default_rng(0).standard_normal((num, 2))

    metrics = distribution(features, features, network=COARSE, estimates=Estimates(seed=0, cache=Cache(tmp_path)))

    flags = {name: value for name, value in metrics.items() if name.endswith("_n_small")}
    assert flags == {
        f"{name}_n_small": flag for name in ("fd_coarse", "kd_coarse", "precision", "recall", "density", "coverage")
    }


def test_a_mean_has_its_interval(tmp_path: Path) -> None:
    metrics = Estimates(seed=0, cache=Cache(tmp_path)).mean("lpips", np.arange(100.0))

    assert list(metrics) == ["lpips", "lpips_low", "lpips_high"]
    assert metrics["lpips"] == 49.5
    assert 40 < metrics["lpips_low"] < 49.5 < metrics["lpips_high"] < 60


def test_rows_of_one_name_are_merged() -> None:
    parts = ({"teacher": {"fid": 1.0}}, {"student": {"fid": 2.0}}, {"teacher": {"latency_ms": 3.0}})

    assert merge_rows(*parts) == {"teacher": {"fid": 1.0, "latency_ms": 3.0}, "student": {"fid": 2.0}}
