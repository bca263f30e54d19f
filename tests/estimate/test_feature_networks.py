"""Networks without weights have as many as those that are loaded."""

from pathlib import Path

import pytest
import torch
from torch import nn
from transformers import CLIPConfig

from naruto_add.estimate.fake import measuring
from naruto_add.estimate.feature_networks import (
    backbone_network,
    new_backbone,
    new_clip,
    new_dinov2,
    new_features,
    new_perceptual,
)
from naruto_add.models.backbones import load_backbone, load_efficientnet


def _num_weights(network: nn.Module) -> int:
    return sum(item.numel() for item in network.parameters())


@pytest.mark.parametrize("name", ["efficientnet_lite0", "efficientnet_lite2"])
def test_backbones_have_the_weights_and_maps_of_the_loaded_ones(name: str) -> None:
    loaded = load_backbone(name, torch.device("cpu"))
    pixels = torch.zeros(1, 3, 64, 64)
    with torch.no_grad():
        shapes = [tuple(item.shape) for item in loaded(pixels)]
    with measuring() as meter:
        fake = new_backbone(name)
        meter.hold(backbone_network(fake))
        assert [tuple(item.shape) for item in fake(torch.empty(1, 3, 64, 64))] == shapes
    assert fake.num_channels == loaded.num_channels
    # folded batch normalizations leave a bias in each convolution
    assert _num_weights(backbone_network(fake)) == pytest.approx(_num_weights(loaded.network), rel=0.01)


def test_the_embedded_feature_network_is_that_of_evaluate() -> None:
    with measuring():
        fake = new_features("embedded").network
    assert _num_weights(fake) == pytest.approx(_num_weights(load_efficientnet("lite1", torch.device("cpu"))), rel=0.01)


def test_networks_of_the_hub_have_their_published_numbers_of_weights() -> None:
    with measuring():
        counts = [_num_weights(network) for network in (new_clip("").model, new_dinov2("large"), new_dinov2("small"))]
    assert counts == [427_616_513, 304_368_640, 22_056_576]


def test_a_clip_in_a_folder_is_built_by_its_own_configuration(tmp_path: Path) -> None:
    sizes = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    CLIPConfig(vision_config=sizes, text_config={**sizes, "vocab_size": 100}, projection_dim=8).save_pretrained(
        tmp_path
    )
    with measuring():
        config = new_clip(str(tmp_path)).model.config
    assert (config.vision_config.hidden_size, config.text_config.vocab_size) == (16, 100)


def test_perceptual_networks_compare_pictures_at_their_own_size() -> None:
    peaks = []
    for side_px in (64, 128):
        with measuring() as meter, torch.no_grad():
            network = new_perceptual("alex", side_px)
            meter.start()
            network.measure(2)
        peaks.append(meter.flops)
    assert peaks[1] > 3 * peaks[0]
