from pathlib import Path

import numpy as np
import pytest
import torch
from cleanfid.resize import make_resizer
from numpy.typing import NDArray
from torch import Tensor, nn

from naruto_add.data.shinobi.draw import draw_shinobi
from naruto_add.evaluation import features as module
from naruto_add.evaluation.features import (
    FeatureNetwork,
    Images,
    as_tensor,
    extract_features,
    load_feature_network,
    resize,
)
from naruto_add.evaluation.frechet import frechet_distance, kernel_distance, kernel_interval
from naruto_add.runtime import StageError

CPU = torch.device("cpu")


def _shinobi(first: int, num: int) -> Images:
    return np.stack([np.asarray(draw_shinobi(first + i, seed=0, size_px=64).image.convert("RGB")) for i in range(num)])


@pytest.fixture(scope="module")
def embedded() -> FeatureNetwork:
    return load_feature_network("embedded", CPU)


@pytest.fixture(scope="module")
def real_features(embedded: FeatureNetwork) -> NDArray[np.float64]:
    return extract_features(_shinobi(0, 12), embedded)


@pytest.fixture(scope="module")
def honest_features(embedded: FeatureNetwork) -> NDArray[np.float64]:
    return extract_features(_shinobi(100, 12), embedded)


@pytest.mark.parametrize(("side", "size_px"), [(64, 240), (64, 299), (400, 299)])
def test_resize_is_clean_fids(side: int, size_px: int) -> None:
    image = np.random.default_rng(0).integers(0, 256, (side, side, 3), dtype=np.uint8)
    expected = make_resizer("PIL", False, "bicubic", (size_px, size_px))(image)

    resized = resize(as_tensor(image[None]), size_px)[0].permute(1, 2, 0).numpy()

    assert np.abs(resized - expected).max() < 0.01


def test_features_do_not_depend_on_the_batch(embedded: FeatureNetwork, real_features: NDArray[np.float64]) -> None:
    alone = extract_features(_shinobi(9, 1), embedded)

    assert real_features.shape == (12, 1280)
    np.testing.assert_allclose(alone[0], real_features[9], atol=1e-4)


def test_distances_bear_the_networks_name(embedded: FeatureNetwork) -> None:
    assert (embedded.frechet_name, embedded.kernel_name) == ("fd_efficientnet_lite1", "kd_efficientnet_lite1")


@pytest.mark.parametrize("fake", ["noise", "one repeated image", "grey"])
def test_a_bad_subject_is_exposed(
    fake: str,
    embedded: FeatureNetwork,
    real_features: NDArray[np.float64],
    honest_features: NDArray[np.float64],
) -> None:
    images = {
        "noise": np.random.default_rng(0).integers(0, 256, (12, 64, 64, 3), dtype=np.uint8),
        "one repeated image": np.repeat(_shinobi(100, 1), 12, axis=0),
        "grey": np.full((12, 64, 64, 3), 128, dtype=np.uint8),
    }[fake]
    faked = extract_features(images, embedded)

    assert frechet_distance(faked, real_features) > 1.2 * frechet_distance(honest_features, real_features)
    assert kernel_distance(faked, real_features) > kernel_interval(honest_features, real_features, seed=0)[1]


class _ToyInception(nn.Module):
    """A TorchScript file in the form of clean-fid's: `layers` maps 299 px in [-1, 1] to 2048 features."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.AvgPool2d(150, ceil_mode=True), nn.Flatten(), nn.Linear(12, 2048))

    def forward(self, pixels: Tensor) -> Tensor:
        features: Tensor = self.layers(pixels)
        return features


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_inception_is_read_from_torchs_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    (tmp_path / "checkpoints").mkdir()
    toy = _ToyInception()
    torch.jit.script(toy).save(str(tmp_path / "checkpoints" / module.INCEPTION_FILE))
    images = _shinobi(0, 3)

    network = load_feature_network("inception", CPU)
    features = extract_features(images, network)

    assert (network.frechet_name, network.kernel_name) == ("fid", "kid")
    expected = toy((resize(as_tensor(images), 299) - 128) / 128).detach().numpy()
    np.testing.assert_allclose(features, expected, atol=1e-5)


def test_missing_inception_names_the_file_and_the_remedy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def unreachable(*_args: object, **_kwargs: object) -> None:
        raise OSError("no route to host")

    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    monkeypatch.setattr(torch.hub, "download_url_to_file", unreachable)

    with pytest.raises(StageError, match=r"evaluate\.features: 'inception'.*inception-2015-12-05\.pt.*'embedded'"):
        load_feature_network("inception", CPU)
