"""Feature networks: their formats, resizing as clean-fid does it, and who may be run."""

import hashlib
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
from naruto_add.models.backbones import IMAGENET_MEAN, IMAGENET_STD
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


@pytest.fixture
def toy_inception(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> _ToyInception:
    """In torch's cache, in the place of clean-fid's."""
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    (tmp_path / "checkpoints").mkdir()
    torch.manual_seed(0)
    toy = _ToyInception()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        torch.jit.script(toy).save(str(tmp_path / "checkpoints" / module.INCEPTION_FILE))
    return toy


@pytest.fixture
def toy_is_the_pinned_one(toy_inception: _ToyInception, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = (tmp_path / "checkpoints" / module.INCEPTION_FILE).read_bytes()
    monkeypatch.setattr(module, "INCEPTION_SHA256", hashlib.sha256(data).hexdigest())


@pytest.mark.usefixtures("toy_is_the_pinned_one")
def test_inception_is_read_from_torchs_cache(toy_inception: _ToyInception) -> None:
    images = _shinobi(0, 3)

    network = load_feature_network("inception", CPU)
    features = extract_features(images, network)

    assert (network.frechet_name, network.kernel_name) == ("fid", "kid")
    expected = toy_inception((resize(as_tensor(images), 299) - 128) / 128).detach().numpy()
    np.testing.assert_allclose(features, expected, atol=1e-5)


@pytest.mark.usefixtures("toy_is_the_pinned_one")
@pytest.mark.filterwarnings("ignore:The `disp` argument:DeprecationWarning")
def test_from_pictures_to_fid_and_kid_as_clean_fid_does(tmp_path: Path) -> None:
    """Its own folder reader, resizer, wrapper, statistics and distances, on the same pictures and network.

    Its resizer rounds once more than ours does in float, and its square root holds four digits of so small a set.
    """
    sets = {"drawn": _shinobi(0, 12), "real": _shinobi(100, 12)}
    for name, images in sets.items():
        (tmp_path / name).mkdir()
        for index, image in enumerate(images):
            Image.fromarray(image).save(tmp_path / name / f"{index:02d}.png")
    network = load_feature_network("inception", CPU)
    theirs = _clean_fid_model(tmp_path)
    folders = {
        name: fid.get_folder_features(
            str(tmp_path / name), theirs, num_workers=0, device=CPU, mode="clean", verbose=False, batch_size=4
        )
        for name in sets
    }
    features = {name: extract_features(images, network) for name, images in sets.items()}

    for name in sets:
        np.testing.assert_allclose(features[name], folders[name], atol=1e-4)
    drawn, real = folders["drawn"].astype(np.float64), folders["real"].astype(np.float64)
    assert kernel_distance(drawn, real) == pytest.approx(fid.kernel_distance(real, drawn, num_subsets=1), abs=1e-6)
    drawn, real = drawn[:, ::8], real[:, ::8]  # the square root of all 2048 takes a minute
    assert frechet_distance(drawn, real) == pytest.approx(fid.fid_from_feats(drawn, real), abs=1e-4)


def _clean_fid_model(cache: Path) -> nn.Module:
    from cleanfid.inception_torchscript import InceptionV3W

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        return InceptionV3W(str(cache / "checkpoints"), download=False, resize_inside=False).eval()


@pytest.mark.usefixtures("toy_inception")
def test_another_inception_is_not_run(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_args: object, **_kwargs: object) -> None:
        raise AssertionError("code was loaded that is not the pinned one")

    monkeypatch.setattr(torch.jit, "load", refuse)

    with pytest.raises(StageError, match=r"not the file that 'inception' means.*f58cb9b6.*remove it"):
        load_feature_network("inception", CPU)


@pytest.fixture
def tiny_clip_dir(tmp_path: Path) -> Path:
    torch.manual_seed(0)
    tower = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    config = CLIPVisionConfig(**tower, image_size=32, patch_size=8, projection_dim=12)
    CLIPVisionModelWithProjection(config).save_pretrained(tmp_path / "clip")
    return tmp_path / "clip"


def test_clip_features_are_its_image_vectors(tiny_clip_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "CLIP_L14", str(tiny_clip_dir))
    images = _shinobi(0, 3)[:, ::2, ::2]  # at the network's own size, so that resizing does nothing
    processor = CLIPImageProcessor(do_resize=False, do_center_crop=False)
    inputs = processor([Image.fromarray(image) for image in images], return_tensors="pt")
    with torch.no_grad():
        expected = CLIPVisionModelWithProjection.from_pretrained(tiny_clip_dir)(**inputs).image_embeds

    network = load_feature_network("clip", CPU)

    assert (network.frechet_name, network.kernel_name) == ("fd_clip_l14", "kd_clip_l14")
    np.testing.assert_allclose(extract_features(images, network), expected.numpy(), atol=1e-5)


def test_dinov2_features_are_its_class_token(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    config = Dinov2Config(hidden_size=16, num_hidden_layers=1, num_attention_heads=2, image_size=28, patch_size=14)
    Dinov2Model(config).save_pretrained(tmp_path / "dinov2")
    monkeypatch.setattr(module, "DINOV2_L14", str(tmp_path / "dinov2"))
    images = np.resize(_shinobi(0, 2), (2, 224, 224, 3))
    pixels = (torch.from_numpy(images).permute(0, 3, 1, 2) / 255 - torch.tensor(IMAGENET_MEAN).view(3, 1, 1)) / (
        torch.tensor(IMAGENET_STD).view(3, 1, 1)
    )
    with torch.no_grad():
        expected = Dinov2Model.from_pretrained(tmp_path / "dinov2")(pixels).last_hidden_state[:, 0]

    network = load_feature_network("dinov2", CPU)

    assert network.frechet_name == "fd_dinov2_l14"
    np.testing.assert_allclose(extract_features(images, network), expected.numpy(), atol=1e-5)


@pytest.mark.parametrize(("choice", "repository"), [("clip", "openai/clip-vit-large"), ("dinov2", "facebook/dinov2")])
def test_a_network_of_the_hub_names_its_place_and_the_remedy(
    choice: Any, repository: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def unreachable(*_args: object, **_kwargs: object) -> None:
        raise OSError("no route to host")

    monkeypatch.setattr(CLIPVisionModelWithProjection, "from_pretrained", unreachable)
    monkeypatch.setattr(Dinov2Model, "from_pretrained", unreachable)

    with pytest.raises(StageError, match=rf"evaluate\.features: {repository}.*cache.*hf download.*'embedded'"):
        load_feature_network(choice, CPU)


def test_missing_inception_names_the_file_and_the_remedy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def unreachable(*_args: object, **_kwargs: object) -> None:
        raise OSError("no route to host")

    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    monkeypatch.setattr(torch.hub, "download_url_to_file", unreachable)

    with pytest.raises(StageError, match=r"evaluate\.features: 'inception'.*inception-2015-12-05\.pt.*'embedded'"):
        load_feature_network("inception", CPU)
