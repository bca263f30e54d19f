from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from naruto_add.data.shinobi.draw import draw_shinobi
from naruto_add.evaluation.features import Images
from naruto_add.evaluation.perceptual import (
    PerceptualNetwork,
    Trunk,
    load_perceptual_network,
    lpips_network,
    multi_depth_distance,
    perceptual_distances,
)
from naruto_add.runtime import StageError

CPU = torch.device("cpu")
WEIGHTS = Path(__file__).parents[2].parent / "shared" / "data" / "weights"
TRUNK_FILES: dict[Trunk, str] = {
    "alex": "alexnet_features.safetensors",
    "squeeze": "squeezenet1_1_features.safetensors",
}


def _shinobi(num: int) -> Images:
    return np.stack([np.asarray(draw_shinobi(i, seed=0, size_px=64).image.convert("RGB")) for i in range(num)])


def _noisy(images: Images, deviation: float) -> Images:
    noise = np.random.default_rng(0).normal(0, deviation, images.shape)
    return (images + noise).clip(0, 255).astype(np.uint8)


@pytest.fixture(scope="module")
def embedded() -> PerceptualNetwork:
    return load_perceptual_network("embedded", CPU)


def test_orthogonal_maps_are_two_apart_and_opposite_ones_four() -> None:
    up, right = torch.tensor([0.0, 3.0]).view(1, 2, 1, 1), torch.tensor([5.0, 0.0]).view(1, 2, 1, 1)

    assert multi_depth_distance([up], [right]).item() == pytest.approx(2)
    assert multi_depth_distance([up], [-up]).item() == pytest.approx(4)
    assert multi_depth_distance([up, up], [right, 2 * up]).item() == pytest.approx(1)


def test_embedded_distance_orders_pairs_as_an_eye_would(embedded: PerceptualNetwork) -> None:
    images = _shinobi(4)

    def mean(others: Images) -> float:
        return float(perceptual_distances(images, others, network=embedded).mean())

    same, slight, strong, other = mean(images), mean(_noisy(images, 4)), mean(_noisy(images, 40)), mean(images[::-1])

    assert embedded.metric_name == "pd_efficientnet_lite1"
    assert same == pytest.approx(0, abs=1e-9)
    assert same < slight < strong
    assert slight < other


@pytest.mark.parametrize("trunk", list(TRUNK_FILES))
def test_lpips_is_the_packages_own_and_zero_for_equal_pictures(trunk: Trunk) -> None:
    path = WEIGHTS / TRUNK_FILES[trunk]
    if not path.exists():
        pytest.skip(f"{path} is not there")
    network = lpips_network(trunk, load_file(path), CPU)
    images = _shinobi(3)

    assert network.metric_name == "lpips"
    assert perceptual_distances(images, images, network=network) == pytest.approx(0, abs=1e-9)
    slight, strong = (perceptual_distances(images, _noisy(images, d), network=network).mean() for d in (4, 40))
    assert 0 < slight < strong < 1.5


def test_lpips_refuses_a_trunk_that_lacks_layers() -> None:
    with pytest.raises(KeyError):
        lpips_network("alex", {}, CPU)


def test_missing_trunk_names_the_file_and_the_remedy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def unreachable(*_args: object, **_kwargs: object) -> None:
        raise OSError("no route to host")

    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    monkeypatch.setattr(torch.hub, "download_url_to_file", unreachable)

    with pytest.raises(
        StageError, match=r"evaluate\.perceptual: 'squeeze' needs .*/squeezenet1_1-\w+\.pth.*'embedded'"
    ):
        load_perceptual_network("squeeze", CPU)
