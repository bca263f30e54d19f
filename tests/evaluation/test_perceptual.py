"""Perceptual distances: LPIPS against its formula and a published value, and errors for missing weights."""

from pathlib import Path

import lpips
import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor
from torchvision import models

from naruto_add.data.shinobi.draw import draw_shinobi
from naruto_add.evaluation.features import as_tensor
from naruto_add.evaluation.perceptual import (
    PerceptualNetwork,
    Trunk,
    load_perceptual_network,
    lpips_network,
    perceptual_distances,
)
from naruto_add.imaging.pixels import Images
from naruto_add.runtime.errors import StageError

CPU = torch.device("cpu")
WEIGHTS = Path(__file__).parents[2].parent / "shared" / "data" / "weights"
TRUNK_FILES: dict[Trunk, str] = {
    "alex": "alexnet_features.safetensors",
    "squeeze": "squeezenet1_1_features.safetensors",
}
IMAGE_SHIFT = torch.tensor([-0.030, -0.088, -0.188]).view(1, 3, 1, 1)
IMAGE_SCALE = torch.tensor([0.458, 0.448, 0.450]).view(1, 3, 1, 1)
"""LPIPS standardises pixels in [-1, 1] with these."""


def _shinobi(num: int) -> Images:
    return np.stack([np.asarray(draw_shinobi(i, seed=0, size_px=64).image.convert("RGB")) for i in range(num)])


def _noisy(images: Images, deviation: float) -> Images:
    noise = np.random.default_rng(0).normal(0, deviation, images.shape)
    return (images + noise).clip(0, 255).astype(np.uint8)


@pytest.fixture(scope="module")
def embedded() -> PerceptualNetwork:
    return load_perceptual_network("embedded", CPU)


def test_embedded_distance_grows_with_noise_and_is_larger_between_different_pictures(
    embedded: PerceptualNetwork,
) -> None:
    images = _shinobi(4)

    def mean(others: Images) -> float:
        return float(perceptual_distances(images, others, network=embedded).mean())

    same, slight, strong, other = mean(images), mean(_noisy(images, 4)), mean(_noisy(images, 40)), mean(images[::-1])

    assert embedded.metric_name == "pd_efficientnet_lite1"
    assert same == pytest.approx(0, abs=1e-9)
    assert same < slight < strong
    assert slight < other


def _trunk_weights(trunk: Trunk) -> dict[str, Tensor]:
    path = WEIGHTS / TRUNK_FILES[trunk]
    if not path.exists():
        pytest.skip(f"{path} does not exist")
    return load_file(path)


@pytest.mark.parametrize("trunk", list(TRUNK_FILES))
def test_lpips_is_the_formula_of_the_paper(trunk: Trunk) -> None:
    """Zhang et al. 2018, eq. 1, with torchvision's network and the package's linear heads."""
    weights = _trunk_weights(trunk)
    images, others = _shinobi(3), _noisy(_shinobi(3), 30)

    found = perceptual_distances(images, others, network=lpips_network(trunk, weights, CPU))

    expected = _lpips(trunk, weights, as_tensor(images), as_tensor(others))
    np.testing.assert_allclose(found, expected.numpy(), rtol=1e-4)


def _lpips(trunk: Trunk, weights: dict[str, Tensor], images: Tensor, others: Tensor) -> Tensor:
    layers = {"alex": models.alexnet, "squeeze": models.squeezenet1_1}[trunk](weights=None).features.eval()
    layers.load_state_dict({name.removeprefix("features."): value for name, value in weights.items()})
    heads = torch.load(Path(lpips.__file__).parent / f"weights/v0.1/{trunk}.pth", map_location=CPU, weights_only=True)
    depths = {"alex": (1, 4, 7, 9, 11), "squeeze": (1, 4, 7, 9, 10, 11, 12)}[trunk]
    distance = torch.zeros(len(images))
    with torch.no_grad():
        x, y = ((item / 127.5 - 1 - IMAGE_SHIFT) / IMAGE_SCALE for item in (images, others))
        for number, layer in enumerate(layers):
            x, y = layer(x), layer(y)
            if number in depths:
                difference = (x / x.norm(dim=1, keepdim=True) - y / y.norm(dim=1, keepdim=True)).nan_to_num() ** 2
                head = heads[f"lin{depths.index(number)}.model.1.weight"]
                distance += (head * difference).sum(dim=1).mean(dim=(1, 2))
    return distance


def test_lpips_is_the_published_value_of_torchmetrics() -> None:
    """The example in the docstring of torchmetrics' `learned_perceptual_image_patch_similarity`: 0.1008."""
    generator = torch.Generator().manual_seed(123)
    images, others = (255 * torch.rand(10, 3, 100, 100, generator=generator) for _ in range(2))
    network = lpips_network("squeeze", _trunk_weights("squeeze"), CPU)
    assert network.distance(images, others).mean().item() == pytest.approx(0.1008, abs=5e-5)


@pytest.mark.parametrize("trunk", list(TRUNK_FILES))
def test_lpips_is_zero_for_equal_pictures_and_grows_with_noise(trunk: Trunk) -> None:
    network = lpips_network(trunk, _trunk_weights(trunk), CPU)
    images = _shinobi(3)

    assert network.metric_name == "lpips"
    assert perceptual_distances(images, images, network=network) == pytest.approx(0, abs=1e-9)
    slight, strong = (perceptual_distances(images, _noisy(images, d), network=network).mean() for d in (4, 40))
    assert 0 < slight < strong < 1.5


def test_lpips_needs_all_layers_of_the_network() -> None:
    with pytest.raises(KeyError):
        lpips_network("alex", {}, CPU)


def test_missing_weights_are_an_error_that_names_the_file_and_the_remedy(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def unreachable(*_args: object, **_kwargs: object) -> None:
        raise OSError("no route to host")

    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    monkeypatch.setattr(torch.hub, "download_url_to_file", unreachable)

    with pytest.raises(
        StageError, match=r"evaluate\.perceptual: 'squeeze' needs .*/squeezenet1_1-\w+\.pth.*'embedded'"
    ):
        load_perceptual_network("squeeze", CPU)
