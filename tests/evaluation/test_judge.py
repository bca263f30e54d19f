"""Students that cheat are exposed, and an honest one is not."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from naruto_add.data.shinobi.draw import draw_shinobi
from naruto_add.evaluation.features import FeatureNetwork, Images
from naruto_add.evaluation.judge import Judge, Metrics, closeness, distribution, diversity, novelty
from naruto_add.evaluation.likeness import thumbnails
from naruto_add.evaluation.perceptual import PerceptualNetwork

NUM = 40
NUM_TRAIN = 80


def _pictures(first: int, num: int) -> Images:
    drawings = [draw_shinobi(index, seed=0, size_px=32) for index in range(first, first + num)]
    return np.stack([np.asarray(drawing.image) for drawing in drawings])


@pytest.fixture(scope="module")
def train() -> Images:
    return _pictures(0, NUM_TRAIN)


@pytest.fixture(scope="module")
def held_out() -> Images:
    return _pictures(1000, NUM)


@pytest.fixture(scope="module")
def honest() -> Images:
    """What a perfect student draws: new pictures of the same kind."""
    return _pictures(2000, NUM)


@pytest.fixture
def judge(tmp_path_factory: pytest.TempPathFactory) -> Judge:
    """Its networks see coarse colours: what is tested here is what follows from features, not the features."""

    def forward(pixels: torch.Tensor) -> torch.Tensor:
        return pixels.flatten(1) / 255

    def distance(pixels: torch.Tensor, others: torch.Tensor) -> torch.Tensor:
        return (pixels - others).abs().mean(dim=(1, 2, 3))

    return Judge(
        features=FeatureNetwork("coarse", "fd_coarse", "kd_coarse", 4, forward),
        perceptual=PerceptualNetwork("mean", "pd_mean", distance),
        clip=None,
        seed=0,
        cache_dir=tmp_path_factory.mktemp("cache"),
    )


def _noise() -> Images:
    return np.random.default_rng(0).integers(0, 256, (NUM, 32, 32, 3), dtype=np.uint8)


def _novelty(images: Images, held_out: Images, train: Images) -> Metrics:
    return novelty(thumbnails(images), thumbnails(held_out), thumbnails(train))


def test_an_honest_student_is_not_accused(judge: Judge, honest: Images, held_out: Images, train: Images) -> None:
    figures = distribution(honest, held_out, judge=judge)
    new = _novelty(honest, held_out, train)

    assert figures["kd_coarse_low"] < 0 < figures["kd_coarse_high"]
    assert figures["precision"] > 0.7 and figures["recall"] > 0.7 and figures["coverage"] > 0.7
    assert new["nearest_train_ratio"] == pytest.approx(1, abs=0.15)
    assert new["near_train_fraction"] < 0.2


def test_noise_is_exposed_by_both_distances(judge: Judge, honest: Images, held_out: Images) -> None:
    good, noise = (distribution(images, held_out, judge=judge) for images in (honest, _noise()))

    assert noise["fd_coarse_low"] > good["fd_coarse_high"]
    assert noise["kd_coarse_low"] > 0


def test_one_repeated_image_is_exposed_by_recall_and_diversity(judge: Judge, honest: Images, held_out: Images) -> None:
    repeated = np.repeat(honest[:1], NUM, axis=0)
    figures = distribution(repeated, held_out, judge=judge)

    assert figures["recall"] == 0
    assert figures["coverage"] < 0.3
    assert diversity(repeated, repeated, judge=judge) == {
        "num_diversity_pairs": NUM,
        "pd_mean_diversity": 0,
        "pd_mean_diversity_low": 0,
        "pd_mean_diversity_high": 0,
    }


def test_training_images_are_exposed_by_their_nearness(judge: Judge, held_out: Images, train: Images) -> None:
    """Nothing else tells: as a distribution they are perfect."""
    copied = _novelty(train[:NUM], held_out, train)

    assert distribution(train[:NUM], held_out, judge=judge)["precision"] > 0.7
    assert copied == {"nearest_train_ratio": 0, "near_train_fraction": 1}


def test_equal_sets_are_at_zero(judge: Judge, held_out: Images) -> None:
    same = distribution(held_out, held_out, judge=judge) | closeness(held_out, held_out, judge=judge)

    assert same["fd_coarse"] == pytest.approx(0, abs=1e-9)
    assert same["kd_coarse"] < 0
    assert same["pd_mean"] == same["pd_mean_low"] == same["pd_mean_high"] == 0
    assert same["precision"] == same["recall"] == same["coverage"] == 1


def test_the_same_sets_give_the_same_figures_with_nothing_kept(
    judge: Judge, held_out: Images, honest: Images, tmp_path: Path
) -> None:
    first, second = (
        distribution(honest, held_out, judge=fresh)
        | closeness(honest, held_out, judge=fresh)
        | diversity(honest, held_out, judge=fresh)
        for fresh in (judge, replace(judge, cache_dir=tmp_path / "fresh"))
    )

    assert first == second


@pytest.mark.parametrize(("num", "flag"), [(NUM, 1), (2048, 0)])
def test_few_pictures_are_flagged(judge: Judge, held_out: Images, num: int, flag: int) -> None:
    judge_of_two = FeatureNetwork("two", "fd_two", "kd_two", 4, lambda pixels: pixels[:, :2, 0, 0])
    images = np.resize(held_out, (num, 32, 32, 3))[:, :4, :4]
    figures = distribution(images, images, judge=replace(judge, features=judge_of_two))

    flags = {name: value for name, value in figures.items() if name.endswith("_n_small")}
    assert flags == {
        f"{name}_n_small": flag for name in ("fd_two", "kd_two", "precision", "recall", "density", "coverage")
    }
