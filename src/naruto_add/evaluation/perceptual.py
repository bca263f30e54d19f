"""Perceptual distances between pairs of pictures; 0 for equal pictures.

`alex`, `vgg` and `squeeze` are LPIPS (Zhang et al. 2018) by the `lpips` package at the pictures' own size; only these
distances are called `lpips`. `embedded` is the same formula without learned weights on feature maps of
EfficientNet-Lite1, and is called `pd_efficientnet_lite1`.
"""

import pickle
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from torch import Tensor

from naruto_add.evaluation.features import NETWORK_BATCH, resize
from naruto_add.imaging.pixels import Images, as_tensor, to_pixels
from naruto_add.losses.perceptual import multi_depth_distance
from naruto_add.models.backbones import load_efficientnet, resolution_maps
from naruto_add.runtime.errors import StageError
from naruto_add.runtime.threads import compute_in_threads

EMBEDDED_PX = 128
"""Side of the pictures that the embedded network compares: half of what it was trained on, because most visible
differences are in its early, high-resolution maps."""

Trunk = Literal["alex", "vgg", "squeeze"]


@dataclass(frozen=True)
class PerceptualNetwork:
    """`distance` compares pixels in [0, 255] pair by pair; `metric_name` is the name of the mean distance."""

    name: str
    metric_name: str
    distance: Callable[[Float[Tensor, "batch 3 h w"], Float[Tensor, "batch 3 h w"]], Float[Tensor, " batch"]]


def load_perceptual_network(choice: Literal["embedded"] | Trunk, device: torch.device) -> PerceptualNetwork:
    """The network of `evaluate.perceptual`. Raises StageError if its weights are missing or cannot be loaded."""
    if choice == "embedded":
        return _embedded(device)
    return lpips_network(choice, trunk_weights(choice), device)


def perceptual_distances(images: Images, others: Images, *, network: PerceptualNetwork) -> NDArray[np.float64]:
    """Distance of each picture to the other set's picture with the same index."""

    @torch.no_grad()
    def distances(pair: tuple[Tensor, Tensor]) -> Tensor:
        return network.distance(*pair)

    pairs = zip(as_tensor(images).split(NETWORK_BATCH), as_tensor(others).split(NETWORK_BATCH), strict=True)
    parts = compute_in_threads(distances, pairs)
    return torch.cat(parts).double().cpu().numpy()


def lpips_network(trunk: Trunk, weights: Mapping[str, Tensor], device: torch.device) -> PerceptualNetwork:
    """LPIPS v0.1: the package's linear heads on the `features.*` tensors of a torchvision network."""
    import lpips

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # lpips passes deprecated arguments to torchvision
        network = lpips.LPIPS(net=trunk, pnet_rand=True, verbose=False)
    _load_trunk(network.net, weights)
    network = network.requires_grad_(False).eval().to(device)

    def distance(pixels: Tensor, others: Tensor) -> Tensor:
        distances: Tensor = network(to_pixels(pixels.to(device)), to_pixels(others.to(device)))
        return distances.flatten()

    return PerceptualNetwork(f"lpips_{trunk}", "lpips", distance)


def _load_trunk(network: Any, weights: Mapping[str, Tensor]) -> None:
    """Load `features.*` into lpips' slices, which keep the layers' numbers: slice2.3.weight is features.3.weight."""
    names = {name: f"features.{name.split('.', 1)[1]}" for name in network.state_dict()}
    network.load_state_dict({name: weights[source] for name, source in names.items()})


def trunk_weights(trunk: Trunk) -> Mapping[str, Tensor]:
    """torchvision's weights, downloaded if they are missing. Raises StageError if they cannot be."""
    from torchvision import models

    weights = {
        "alex": models.AlexNet_Weights.IMAGENET1K_V1,
        "vgg": models.VGG16_Weights.IMAGENET1K_V1,
        "squeeze": models.SqueezeNet1_1_Weights.IMAGENET1K_V1,
    }[trunk]
    try:
        state: Mapping[str, Tensor] = weights.get_state_dict(progress=False, check_hash=True, weights_only=True)
        return state
    except (OSError, RuntimeError, EOFError, pickle.UnpicklingError) as error:  # no network, or a damaged file
        path = f"{torch.hub.get_dir()}/checkpoints/{weights.url.rsplit('/', 1)[1]}"
        raise StageError(
            f"evaluate.perceptual: {trunk!r} needs {path}, which cannot be read or downloaded from {weights.url} "
            f"({error}); copy it to this path, or choose 'embedded'"
        ) from error


def _embedded(device: torch.device) -> PerceptualNetwork:
    network = load_efficientnet("lite1", device)

    def maps(pixels: Tensor) -> list[Tensor]:
        return resolution_maps(network, to_pixels(resize(pixels.to(device), EMBEDDED_PX)))

    def distance(pixels: Tensor, others: Tensor) -> Tensor:
        return multi_depth_distance(maps(pixels), maps(others))

    return PerceptualNetwork("efficientnet_lite1", "pd_efficientnet_lite1", distance)
