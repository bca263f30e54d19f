"""Feature networks: each turns a picture into a vector, and Frechet and kernel distances compare sets of vectors.

`inception` is clean-fid's Inception-v3; only its distances are called `fid` and `kid`. The other distances have the
name of their network and cannot be compared with published FIDs: `clip` is the image encoder of CLIP ViT-L/14, `dinov2`
is DINOv2 ViT-L/14 (Stein et al. 2023), and `embedded` is EfficientNet-Lite1 (ImageNet), whose weights are installed
with this package. The discriminator uses none of these networks.
"""

import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float
from numpy.typing import NDArray
from torch import Tensor
from transformers.image_utils import (
    IMAGENET_DEFAULT_MEAN,
    IMAGENET_DEFAULT_STD,
    OPENAI_CLIP_MEAN,
    OPENAI_CLIP_STD,
)

from naruto_add.config.constants import CLIP_L14, DINOV2_L14, INCEPTION_FILE
from naruto_add.imaging.pixels import Images, as_tensor, to_pixels
from naruto_add.models.backbones import load_efficientnet, standardized
from naruto_add.models.hub import load_frozen
from naruto_add.runtime.errors import StageError
from naruto_add.runtime.files import file_sha256
from naruto_add.runtime.threads import compute_in_threads

EFFICIENTNET_LITE1_PX = 240
INCEPTION_PX = 299
DINOV2_PX = 224
NETWORK_BATCH = 8
"""Pictures per network call. Larger batches are slower on a CPU because they exceed its cache."""
INCEPTION_SHA256 = "f58cb9b6ec323ed63459aa4fb441fe750cfe39fafad6da5cb504a16f19e958f4"
"""Checked before loading, because the file is TorchScript, that is, code."""
KEY = "evaluate.features"
REMEDY = "choose 'embedded'"


@dataclass(frozen=True)
class FeatureNetwork:
    """`forward` maps pixels in [0, 255], of side `input_px`, to one vector per picture."""

    name: str
    frechet_name: str
    kernel_name: str
    input_px: int
    forward: Callable[[Float[Tensor, "batch 3 px px"]], Float[Tensor, "batch features"]]


def load_feature_network(
    choice: Literal["embedded", "inception", "clip", "dinov2"], device: torch.device
) -> FeatureNetwork:
    """The network of `evaluate.features`. Raises StageError if its weights are missing or cannot be loaded."""
    match choice:
        case "embedded":
            return _embedded_network(device)
        case "inception":
            return inception_network(inception_path(), device, sha256=INCEPTION_SHA256)
        case "clip":
            return clip_network(CLIP_L14, device)
        case "dinov2":
            return dinov2_network(DINOV2_L14, device)


def extract_features(images: Images, network: FeatureNetwork) -> NDArray[np.float64]:
    """One row per picture."""

    @torch.no_grad()
    def features(batch: Tensor) -> Tensor:
        return network.forward(resize(batch, network.input_px))

    rows = compute_in_threads(features, as_tensor(images).split(NETWORK_BATCH))
    return torch.cat(rows).double().cpu().numpy()


def resize(values: Float[Tensor, "batch 3 height width"], size_px: int) -> Float[Tensor, "batch 3 px px"]:
    """Values in [0, 255] resized as clean-fid does: bicubic with antialiasing, not rounded (Parmar et al. 2022)."""
    return F.interpolate(values, size=(size_px, size_px), mode="bicubic", antialias=True).clamp(0, 255)


def inception_network(path: Path, device: torch.device, *, sha256: str) -> FeatureNetwork:
    """clean-fid's Inception-v3 from a TorchScript file. Raises StageError if the file has another hash."""
    from cleanfid.inception_torchscript import InceptionV3W

    if (found := file_sha256(path)) != sha256:
        raise StageError(
            f"{KEY}: {path} is not clean-fid's Inception (its SHA-256 is {found}, expected {sha256}); delete it, or "
            f"{REMEDY}"
        )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # clean-fid calls torch.jit.load
        network = InceptionV3W(str(path.parent), download=False, resize_inside=False).to(device).eval()

    def forward(pixels: Tensor) -> Tensor:
        features: Tensor = network(pixels.to(device))
        return features

    return FeatureNetwork("inception", "fid", "kid", INCEPTION_PX, forward)


def clip_network(source: str, device: torch.device) -> FeatureNetwork:
    """A CLIP image encoder; its features are the projected vectors, which CLIP compares with those of captions."""
    from transformers import CLIPVisionModelWithProjection

    network = load_frozen(CLIPVisionModelWithProjection, source, key=KEY, instead=REMEDY).to(device)

    def forward(pixels: Tensor) -> Tensor:
        inputs = standardized(pixels.to(device) / 255, OPENAI_CLIP_MEAN, OPENAI_CLIP_STD)
        features: Tensor = network(inputs).image_embeds
        return features

    return _named_network("clip_l14", network.config.image_size, forward)


def dinov2_network(source: str, device: torch.device) -> FeatureNetwork:
    """A DINOv2; its features are the class token after the last normalization."""
    from transformers import Dinov2Model

    network = load_frozen(Dinov2Model, source, key=KEY, instead=REMEDY).to(device)

    def forward(pixels: Tensor) -> Tensor:
        inputs = standardized(pixels.to(device) / 255, IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD)
        features: Tensor = network(inputs).pooler_output
        return features

    return _named_network("dinov2_l14", DINOV2_PX, forward)


def _embedded_network(device: torch.device) -> FeatureNetwork:
    network = load_efficientnet("lite1", device)

    def forward(pixels: Tensor) -> Tensor:
        features: Tensor = network.extract_features(to_pixels(pixels.to(device)))
        return features.mean(dim=(2, 3))

    return _named_network("efficientnet_lite1", EFFICIENTNET_LITE1_PX, forward)


def _named_network(name: str, input_px: int, forward: Callable[[Tensor], Tensor]) -> FeatureNetwork:
    return FeatureNetwork(name, f"fd_{name}", f"kd_{name}", input_px, forward)


def inception_path() -> Path:
    """clean-fid's file in torch's cache, downloaded if it is missing. Raises StageError if it cannot be."""
    from cleanfid.downloads_helper import inception_url

    path = Path(torch.hub.get_dir()) / "checkpoints" / INCEPTION_FILE
    if path.exists():
        return path
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        torch.hub.download_url_to_file(inception_url, str(path), hash_prefix=INCEPTION_SHA256, progress=False)
    except (OSError, RuntimeError) as error:  # RuntimeError if the hash differs
        raise StageError(
            f"{KEY}: 'inception' needs {path}, which does not exist and cannot be downloaded from {inception_url} "
            f"({error}); copy it to this path, or {REMEDY}"
        ) from error
    return path
