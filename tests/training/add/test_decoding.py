"""Decoded crops of latents."""

import torch

from naruto_add.diffusion.bundle import ModelBundle, decode_latents
from naruto_add.training.add.decoding import crop_latents, decode_crops


def test_crops_reach_every_position_and_none_outside() -> None:
    maps = torch.arange(16.0).view(1, 1, 4, 4).expand(3, 1, 4, 4)
    corner = torch.tensor([[0.0, 0.0], [0.999, 0.999], [0.4, 0.0]])
    crops = crop_latents(maps, corner, side=2)[:, 0]
    assert crops.tolist() == [[[0, 1], [4, 5]], [[10, 11], [14, 15]], [[4, 5], [8, 9]]]
    assert torch.equal(crop_latents(maps, corner, side=9), maps)


def test_a_crop_of_the_whole_picture_is_the_decoded_picture(tiny_bundle: ModelBundle) -> None:
    latents = 0.1 * torch.randn(2, 4, 4, 4, generator=torch.Generator().manual_seed(0))
    crops = decode_crops(tiny_bundle.vae, latents, torch.zeros(2, 2), side_px=64)
    torch.testing.assert_close(crops.clamp(-1, 1), decode_latents(tiny_bundle, latents))


def test_the_gradient_reaches_the_cropped_latents_and_no_weights(tiny_bundle: ModelBundle) -> None:
    latents = torch.randn(1, 4, 4, 4, generator=torch.Generator().manual_seed(0)).requires_grad_()
    decode_crops(tiny_bundle.vae, latents, torch.zeros(1, 2), side_px=16).square().sum().backward()
    assert latents.grad is not None
    has_gradient = latents.grad[0].abs().sum(dim=0) > 0
    assert has_gradient.nonzero().tolist() == [[0, 0], [0, 1], [1, 0], [1, 1]]
    assert all(item.grad is None for item in tiny_bundle.vae.parameters())
