"""Networks that turn pictures into the vectors that Frechet and kernel distances compare.

`inception` is clean-fid's Inception-v3, and its distances are called `fid` and `kid`. All others bear their network's
name and cannot be compared with anyone's FID: `clip` is the image tower of CLIP ViT-L/14, `dinov2` DINOv2 ViT-L/14
(Stein et al. 2023), and `embedded` EfficientNet-Lite1 (ImageNet), which comes as an ordinary dependency. None of them
is a network of the discriminator.
"""

import hashlib
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float
from numpy.typing import NDArray
from torch import Tensor

from naruto_add.conventions import CLIP_L14
from naruto_add.models.backbones import IMAGENET_MEAN, IMAGENET_STD, load_efficientnet
from naruto_add.models.clip import CLIP_MEAN, CLIP_STD
from naruto_add.models.hub import load_frozen
from naruto_add.runtime import StageError

EFFICIENTNET_LITE1_PX = 240
INCEPTION_PX = 299
DINOV2_PX = 224
NETWORK_BATCH = 8
"""Pictures per call: more are slower on a CPU, whose cache they leave."""
INCEPTION_FILE = "inception-2015-12-05.pt"
INCEPTION_SHA256 = "f58cb9b6ec323ed63459aa4fb441fe750cfe39fafad6da5cb504a16f19e958f4"
"""The file is TorchScript, which is code: no other may be run."""
DINOV2_L14 = "facebook/dinov2-large@47b73eefe95e8d44ec3623f8890bd894b6ea2d6c"
KEY = "evaluate.features"
INSTEAD = "choose 'embedded'"

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


def load_feature_network(
    choice: Literal["embedded", "inception", "clip", "dinov2"], device: torch.device
) -> FeatureNetwork:
    """The network that `evaluate.features` names. Raises StageError where its weights cannot be had."""
    match choice:
        case "embedded":
            return _embedded(device)
        case "inception":
            return _inception(device)
        case "clip":
            return _clip(device)
        case "dinov2":
            return _dinov2(device)


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


def normalized(
    pixels: Float[Tensor, "batch 3 height width"], mean: Sequence[float], std: Sequence[float]
) -> Float[Tensor, "batch 3 height width"]:
    """Pixels in [0, 255], scaled to [0, 1] and then by each channel's mean and deviation."""
    shift, scale = (pixels.new_tensor(item).view(1, 3, 1, 1) for item in (mean, std))
    return (pixels / 255 - shift) / scale


def _named(name: str, input_px: int, forward: Callable[[Tensor], Tensor]) -> FeatureNetwork:
    return FeatureNetwork(name, f"fd_{name}", f"kd_{name}", input_px, forward)


def _embedded(device: torch.device) -> FeatureNetwork:
    network = load_efficientnet("lite1", device)

    def forward(pixels: Tensor) -> Tensor:
        features: Tensor = network.extract_features(pixels.to(device) / 127.5 - 1)
        return features.mean(dim=(2, 3))

    return _named("efficientnet_lite1", EFFICIENTNET_LITE1_PX, forward)


def _clip(device: torch.device) -> FeatureNetwork:
    """The projected vectors, which are those that captions are compared with."""
    from transformers import CLIPVisionModelWithProjection

    network = load_frozen(CLIPVisionModelWithProjection, CLIP_L14, key=KEY, instead=INSTEAD).to(device)

    def forward(pixels: Tensor) -> Tensor:
        features: Tensor = network(normalized(pixels.to(device), CLIP_MEAN, CLIP_STD)).image_embeds
        return features

    return _named("clip_l14", network.config.image_size, forward)


def _dinov2(device: torch.device) -> FeatureNetwork:
    """The class token after the last normalization."""
    from transformers import Dinov2Model

    network = load_frozen(Dinov2Model, DINOV2_L14, key=KEY, instead=INSTEAD).to(device)

    def forward(pixels: Tensor) -> Tensor:
        features: Tensor = network(normalized(pixels.to(device), IMAGENET_MEAN, IMAGENET_STD)).pooler_output
        return features

    return _named("dinov2_l14", DINOV2_PX, forward)


def _inception(device: torch.device) -> FeatureNetwork:
    network = _inception_network(_inception_path()).to(device).eval()

    def forward(pixels: Tensor) -> Tensor:
        features: Tensor = network(pixels.to(device))
        return features

    return FeatureNetwork("inception", "fid", "kid", INCEPTION_PX, forward)


def _inception_network(path: Path) -> Any:
    from cleanfid.inception_torchscript import InceptionV3W

    with path.open("rb") as file:
        found = hashlib.file_digest(file, "sha256").hexdigest()
    if found != INCEPTION_SHA256:
        raise StageError(
            f"{KEY}: {path} is not the file that 'inception' means (SHA-256 {found}, not {INCEPTION_SHA256}); "
            f"remove it, or {INSTEAD}"
        )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # torch.jit.load, by which clean-fid loads it
        return InceptionV3W(str(path.parent), download=False, resize_inside=False)


def _inception_path() -> Path:
    from cleanfid.downloads_helper import inception_url

    path = Path(torch.hub.get_dir()) / "checkpoints" / INCEPTION_FILE
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            torch.hub.download_url_to_file(inception_url, str(path), hash_prefix=INCEPTION_SHA256, progress=False)
        except (OSError, RuntimeError) as error:  # torch raises the latter for another hash
            raise StageError(
                f"{KEY}: 'inception' needs {path}, which is not there and cannot be fetched from "
                f"{inception_url} ({error}); put it there, or {INSTEAD}"
            ) from error
    return path
