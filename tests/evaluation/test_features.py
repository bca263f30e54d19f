"""Feature networks: resizing and features equal those of their libraries; missing or altered weights are errors."""

import hashlib
import shutil
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from cleanfid import fid
from cleanfid.resize import make_resizer
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor, nn
from transformers import (
    CLIPImageProcessor,
    CLIPVisionConfig,
    CLIPVisionModelWithProjection,
    Dinov2Config,
    Dinov2Model,
)
from transformers.image_utils import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD

from naruto_add.data.shinobi.draw import draw_shinobi
from naruto_add.evaluation.features import (
    INCEPTION_FILE,
    FeatureNetwork,
    clip_network,
    dinov2_network,
    extract_features,
    inception_network,
    load_feature_network,
    resize,
)
from naruto_add.evaluation.frechet import frechet_distance
from naruto_add.evaluation.intervals import kernel_interval
from naruto_add.imaging.pixels import Images, as_tensor
from naruto_add.losses.kernel import kernel_distance
from naruto_add.runtime.errors import StageError

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
def new_features(embedded: FeatureNetwork) -> NDArray[np.float64]:
    return extract_features(_shinobi(100, 12), embedded)


@pytest.mark.parametrize(("side", "size_px"), [(64, 240), (64, 299), (400, 299)])
def test_resize_equals_that_of_clean_fid(side: int, size_px: int) -> None:
    image = np.random.default_rng(0).integers(0, 256, (side, side, 3), dtype=np.uint8)
    expected = make_resizer("PIL", False, "bicubic", (size_px, size_px))(image)

    resized = resize(as_tensor(image[None]), size_px)[0].permute(1, 2, 0).numpy()

    assert np.abs(resized - expected).max() < 0.01


def test_features_do_not_depend_on_the_batch(embedded: FeatureNetwork, real_features: NDArray[np.float64]) -> None:
    alone = extract_features(_shinobi(9, 1), embedded)

    assert real_features.shape == (12, 1280)
    np.testing.assert_allclose(alone[0], real_features[9], atol=1e-4)


def test_distances_have_the_name_of_their_network(embedded: FeatureNetwork) -> None:
    assert (embedded.frechet_name, embedded.kernel_name) == ("fd_efficientnet_lite1", "kd_efficientnet_lite1")


@pytest.mark.parametrize("fake", ["noise", "one repeated image", "grey"])
def test_bad_pictures_have_larger_distances_than_new_ones_of_the_same_kind(
    fake: str,
    embedded: FeatureNetwork,
    real_features: NDArray[np.float64],
    new_features: NDArray[np.float64],
) -> None:
    images = {
        "noise": np.random.default_rng(0).integers(0, 256, (12, 64, 64, 3), dtype=np.uint8),
        "one repeated image": np.repeat(_shinobi(100, 1), 12, axis=0),
        "grey": np.full((12, 64, 64, 3), 128, dtype=np.uint8),
    }[fake]
    faked = extract_features(images, embedded)

    assert frechet_distance(faked, real_features) > 1.2 * frechet_distance(new_features, real_features)
    distance = kernel_distance(torch.from_numpy(faked), torch.from_numpy(real_features)).value
    assert distance > kernel_interval(new_features, real_features, seed=0)[1]


class _ToyInception(nn.Module):
    """A network in the TorchScript format of clean-fid's: `layers` maps 299 px in [-1, 1] to 2048 features."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.AvgPool2d(150, ceil_mode=True), nn.Flatten(), nn.Linear(12, 2048))

    def forward(self, pixels: Tensor) -> Tensor:
        features: Tensor = self.layers(pixels)
        return features


@pytest.fixture(scope="module")
def toy_inception() -> _ToyInception:
    torch.manual_seed(0)
    return _ToyInception()


@pytest.fixture(scope="module")
def toy_path(toy_inception: _ToyInception, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The toy network in a file with the name of clean-fid's."""
    path = tmp_path_factory.mktemp("inception") / INCEPTION_FILE
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        torch.jit.script(toy_inception).save(str(path))
    return path


@pytest.fixture(scope="module")
def toy_network(toy_path: Path) -> FeatureNetwork:
    return inception_network(toy_path, CPU, sha256=hashlib.sha256(toy_path.read_bytes()).hexdigest())


def test_inception_features_are_those_of_its_layers(toy_inception: _ToyInception, toy_network: FeatureNetwork) -> None:
    images = _shinobi(0, 3)

    features = extract_features(images, toy_network)

    assert (toy_network.frechet_name, toy_network.kernel_name) == ("fid", "kid")
    expected = toy_inception((resize(as_tensor(images), 299) - 128) / 128).detach().numpy()
    np.testing.assert_allclose(features, expected, atol=1e-5)


@pytest.mark.filterwarnings("ignore:The `disp` argument:DeprecationWarning")
def test_fid_and_kid_equal_those_of_clean_fid(toy_path: Path, toy_network: FeatureNetwork, tmp_path: Path) -> None:
    """The reference is clean-fid's folder reader, resizer, statistics and distances with the same pictures and network.

    clean-fid rounds once more while resizing, and its matrix square root has four exact digits for so small a set.
    """
    sets = {"drawn": _shinobi(0, 12), "real": _shinobi(100, 12)}
    for name, images in sets.items():
        (tmp_path / name).mkdir()
        for index, image in enumerate(images):
            Image.fromarray(image).save(tmp_path / name / f"{index:02d}.png")
    clean_fid_model = _clean_fid_model(toy_path.parent)
    folders = {
        name: fid.get_folder_features(
            str(tmp_path / name), clean_fid_model, num_workers=0, device=CPU, mode="clean", verbose=False, batch_size=4
        )
        for name in sets
    }
    features = {name: extract_features(images, toy_network) for name, images in sets.items()}

    for name in sets:
        np.testing.assert_allclose(features[name], folders[name], atol=1e-4)
    drawn, real = folders["drawn"].astype(np.float64), folders["real"].astype(np.float64)
    distance = kernel_distance(torch.from_numpy(drawn), torch.from_numpy(real)).value
    assert distance == pytest.approx(fid.kernel_distance(real, drawn, num_subsets=1), abs=1e-6)
    drawn, real = drawn[:, ::8], real[:, ::8]  # the matrix square root of all 2048 features takes a minute
    assert frechet_distance(drawn, real) == pytest.approx(fid.fid_from_feats(drawn, real), abs=1e-4)


def _clean_fid_model(folder: Path) -> nn.Module:
    from cleanfid.inception_torchscript import InceptionV3W

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        return InceptionV3W(str(folder), download=False, resize_inside=False).eval()


def test_an_inception_file_with_another_hash_is_not_loaded(
    toy_path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    (tmp_path / "checkpoints").mkdir()
    shutil.copy(toy_path, tmp_path / "checkpoints" / INCEPTION_FILE)

    with pytest.raises(StageError, match=r"is not clean-fid's Inception.*expected f58cb9b6.*delete it"):
        load_feature_network("inception", CPU)


def test_clip_features_are_its_image_vectors(tmp_path: Path) -> None:
    torch.manual_seed(0)
    sizes = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    config = CLIPVisionConfig(**sizes, image_size=32, patch_size=8, projection_dim=12)
    CLIPVisionModelWithProjection(config).save_pretrained(tmp_path)
    images = _shinobi(0, 3)[:, ::2, ::2]  # already of the network's size, so that they are not resized
    processor = CLIPImageProcessor(do_resize=False, do_center_crop=False)
    inputs = processor([Image.fromarray(image) for image in images], return_tensors="pt")
    with torch.no_grad():
        expected = CLIPVisionModelWithProjection.from_pretrained(tmp_path)(**inputs).image_embeds

    network = clip_network(str(tmp_path), CPU)

    assert (network.frechet_name, network.kernel_name) == ("fd_clip_l14", "kd_clip_l14")
    np.testing.assert_allclose(extract_features(images, network), expected.numpy(), atol=1e-5)


def test_dinov2_features_are_its_class_token(tmp_path: Path) -> None:
    torch.manual_seed(0)
    config = Dinov2Config(hidden_size=16, num_hidden_layers=1, num_attention_heads=2, image_size=28, patch_size=14)
    Dinov2Model(config).save_pretrained(tmp_path)
    images = np.resize(_shinobi(0, 2), (2, 224, 224, 3))
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in (IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD))
    pixels = (torch.from_numpy(images).permute(0, 3, 1, 2) / 255 - mean) / std
    with torch.no_grad():
        expected = Dinov2Model.from_pretrained(tmp_path)(pixels).last_hidden_state[:, 0]

    network = dinov2_network(str(tmp_path), CPU)

    assert network.frechet_name == "fd_dinov2_l14"
    np.testing.assert_allclose(extract_features(images, network), expected.numpy(), atol=1e-5)


@pytest.mark.parametrize(("choice", "repository"), [("clip", "openai/clip-vit-large"), ("dinov2", "facebook/dinov2")])
def test_a_missing_network_of_the_hub_is_an_error_that_names_the_cache_and_the_remedy(
    choice: Any, repository: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def unreachable(*_args: object, **_kwargs: object) -> None:
        raise OSError("no route to host")

    monkeypatch.setattr(CLIPVisionModelWithProjection, "from_pretrained", unreachable)
    monkeypatch.setattr(Dinov2Model, "from_pretrained", unreachable)

    with pytest.raises(StageError, match=rf"evaluate\.features: {repository}.*cache.*hf download.*'embedded'"):
        load_feature_network(choice, CPU)


def test_a_missing_inception_file_is_an_error_that_names_the_file_and_the_remedy(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def unreachable(*_args: object, **_kwargs: object) -> None:
        raise OSError("no route to host")

    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    monkeypatch.setattr(torch.hub, "download_url_to_file", unreachable)

    with pytest.raises(StageError, match=r"evaluate\.features: 'inception'.*inception-2015-12-05\.pt.*'embedded'"):
        load_feature_network("inception", CPU)
