"""The networks of losses, scores and metrics, without weights, as callables on fake tensors.

A network that parameters name is built by its configuration, from its folder or the hub's cache; if it is in neither,
by that of the network in the default parameters. Nothing is downloaded. clean-fid's Inception-v3 is a file of weights
and code, so torchvision's Inception-v3, which has the same layers, stands for it.
"""

import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

from naruto_add.estimate.fake import materialized, on_meta
from naruto_add.evaluation.attributes import CLASSIFIER_PX, COLUMNS, new_network
from naruto_add.evaluation.features import DINOV2_PX, EFFICIENTNET_LITE1_PX, INCEPTION_PX
from naruto_add.evaluation.perceptual import EMBEDDED_PX, Trunk
from naruto_add.losses.perceptual import multi_depth_distance
from naruto_add.models.backbones import Backbone, Dinov2Maps, EfficientNetMaps, resolution_maps
from naruto_add.models.clip import ClipNetwork, image_vectors

CLIP_VISION = {"patch_size": 14, "hidden_size": 1024, "intermediate_size": 4096}
CLIP_VISION |= {"num_hidden_layers": 24, "num_attention_heads": 16}
CLIP_TEXT = {"hidden_size": 768, "intermediate_size": 3072, "num_hidden_layers": 12, "num_attention_heads": 12}
DINOV2 = {
    "large": {"hidden_size": 1024, "num_hidden_layers": 24, "num_attention_heads": 16},
    "small": {"hidden_size": 384, "num_hidden_layers": 12, "num_attention_heads": 6},
}
ASSUMED_WORDS = 8
"""Values of each attribute in the data set, for the size of the attribute classifier."""


@dataclass(frozen=True)
class Measuring:
    """A network that measures, and one call of it for a batch of this many pictures."""

    network: nn.Module
    measure: Callable[[int], object]


def new_features(choice: Literal["embedded", "inception", "clip", "dinov2"]) -> Measuring:
    """The network of `evaluate.features`."""
    match choice:
        case "embedded":
            efficientnet = new_efficientnet("lite1")
            return _on_pictures(efficientnet, efficientnet.extract_features, EFFICIENTNET_LITE1_PX)
        case "inception":
            from torchvision.models import inception_v3

            with on_meta():
                inception = inception_v3(weights=None, aux_logits=False, init_weights=False)
            return _on_pictures(_frozen(inception), inception, INCEPTION_PX)
        case "clip":
            clip = new_clip("")
            clip.model.text_model = None  # only the image encoder is loaded
            return _on_pictures(clip.model, lambda pixels: image_vectors(clip, pixels), clip.input_px)
        case "dinov2":
            dinov2 = new_dinov2("large")
            return _on_pictures(dinov2, dinov2, DINOV2_PX)


def new_perceptual(choice: Literal["embedded"] | Trunk, side_px: int) -> Measuring:
    """The network of `evaluate.perceptual`, which compares pairs of pictures of this side."""
    if choice == "embedded":
        network = new_efficientnet("lite1")

        def distance(batch: int) -> object:
            one, other = (resolution_maps(network, _pixels(batch, EMBEDDED_PX)) for _ in range(2))
            return multi_depth_distance(one, other)

        return Measuring(network, distance)
    import lpips

    with on_meta(), warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # lpips passes deprecated arguments to torchvision
        network = lpips.LPIPS(net=choice, pretrained=False, pnet_rand=True, verbose=False)
    network = _frozen(network)
    return Measuring(network, lambda batch: network(_pixels(batch, side_px), _pixels(batch, side_px)))


def new_clip_score(source: str) -> Measuring:
    """The network of `evaluate.clip_score`, which reads pictures and captions."""
    clip = new_clip(source)
    length = clip.model.config.text_config.max_position_embeddings

    def score(batch: int) -> object:
        tokens = torch.zeros(batch, length, dtype=torch.long)
        text = clip.model.text_projection(clip.model.text_model(input_ids=tokens).pooler_output)
        return text, image_vectors(clip, _pixels(batch, clip.input_px))

    return Measuring(clip.model, score)


def new_clip(source: str) -> ClipNetwork:
    """The CLIP model in `source`, without a tokenizer; CLIP ViT-L/14 if its configuration is not here."""
    from transformers import CLIPConfig, CLIPModel

    config = _local_config(CLIPConfig, source) or CLIPConfig(
        vision_config=CLIP_VISION, text_config=CLIP_TEXT, projection_dim=768
    )
    with on_meta():
        model = CLIPModel(config)
    return ClipNetwork(source, _frozen(model), None)


def new_backbone(name: Literal["efficientnet_lite0", "efficientnet_lite2", "dinov2_small"]) -> Backbone:
    """The network of `add.pixel_backbone` or `add.score_backbone`."""
    if name == "dinov2_small":
        return Dinov2Maps(new_dinov2("small"))
    return EfficientNetMaps(new_efficientnet(name.removeprefix("efficientnet_")))


def backbone_network(backbone: Backbone) -> nn.Module:
    """The network of a backbone that `new_backbone` made."""
    network: nn.Module = getattr(backbone, "network")  # noqa: B009 (the protocol does not declare it)
    return network


def new_efficientnet(size: str) -> Any:
    """EfficientNet-Lite of this size; identities stand for the batch normalizations, which are folded when loaded."""
    from efficientnet_lite_pytorch import EfficientNet

    with on_meta():
        network = EfficientNet.from_name(f"efficientnet-{size}")
    for module in list(network.modules()):
        for name, child in module.named_children():
            if isinstance(child, nn.BatchNorm2d):
                setattr(module, name, nn.Identity())
    return _frozen(network)


def new_dinov2(size: Literal["small", "large"]) -> nn.Module:
    """DINOv2 of this size, at the picture size that its file has positions for."""
    from transformers import Dinov2Config, Dinov2Model

    with on_meta():
        model = Dinov2Model(Dinov2Config(**DINOV2[size], image_size=518, patch_size=14))
    return _frozen(model)


def new_attribute_classifier() -> Measuring:
    """The classifier of `evaluate.classifier_steps`, with one step of its training; its vocabulary is assumed."""
    with on_meta():
        network = new_network(num_outputs=ASSUMED_WORDS * len(COLUMNS))
    materialized(network)

    def step(batch: int) -> object:
        return network(_pixels(batch, CLASSIFIER_PX)).sum().backward()

    return Measuring(network, step)


def _local_config(cls: Any, source: str) -> Any:
    """The configuration in the folder or in the hub's cache, or None."""
    repository, _, commit = source.partition("@")
    if not source:
        return None
    try:
        return cls.from_pretrained(repository, revision=commit or None, local_files_only=True)
    except (OSError, ValueError):
        return None


def _on_pictures(network: nn.Module, forward: Callable[[Tensor], object], side_px: int) -> Measuring:
    return Measuring(network, lambda batch: forward(_pixels(batch, side_px)))


def _pixels(batch: int, side_px: int) -> Tensor:
    return torch.empty(batch, 3, side_px, side_px)


def _frozen(network: Any) -> Any:
    return materialized(network.requires_grad_(False).eval())
