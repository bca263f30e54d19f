"""Squares of decoded pictures."""

import pytest
import torch

from naruto_add.diffusion.bundle import ModelBundle, decode_latents
from naruto_add.models.backbones import load_backbone
from naruto_add.training.add.pixels import cut_squares, decoded_squares, perceptual_loss


def test_corners_reach_every_place_and_none_beyond() -> None:
    maps = torch.arange(16.0).view(1, 1, 4, 4).expand(3, 1, 4, 4)
    corner = torch.tensor([[0.0, 0.0], [0.999, 0.999], [0.4, 0.0]])
    cut = cut_squares(maps, corner, side=2)[:, 0]
    assert cut.tolist() == [[[0, 1], [4, 5]], [[10, 11], [14, 15]], [[4, 5], [8, 9]]]
    assert torch.equal(cut_squares(maps, corner, side=9), maps)


def test_a_whole_picture_is_what_the_autoencoder_decodes(tiny_bundle: ModelBundle) -> None:
    latents = 0.1 * torch.randn(2, 4, 4, 4, generator=torch.Generator().manual_seed(0))
    squares = decoded_squares(tiny_bundle.vae, latents, torch.zeros(2, 2), side_px=64)
    torch.testing.assert_close(squares.clamp(-1, 1), decode_latents(tiny_bundle, latents))


def test_the_gradient_reaches_the_cut_latents_and_no_weights(tiny_bundle: ModelBundle) -> None:
    latents = torch.randn(1, 4, 4, 4, generator=torch.Generator().manual_seed(0)).requires_grad_()
    decoded_squares(tiny_bundle.vae, latents, torch.zeros(1, 2), side_px=16).square().sum().backward()
    assert latents.grad is not None
    touched = latents.grad[0].abs().sum(dim=0) > 0
    assert touched.nonzero().tolist() == [[0, 0], [0, 1], [1, 0], [1, 1]]
    assert all(item.grad is None for item in tiny_bundle.vae.parameters())


def test_the_perceptual_loss_is_zero_for_the_teachers_picture_and_pulls_towards_it(tiny_bundle: ModelBundle) -> None:
    backbone = load_backbone("efficientnet_lite0", torch.device("cpu"))
    generator = torch.Generator().manual_seed(0)
    teacher = torch.randn(2, 4, 4, 4, generator=generator).requires_grad_()
    student = (teacher.detach() + torch.randn(2, 4, 4, 4, generator=generator)).requires_grad_()

    def loss(x0: torch.Tensor) -> torch.Tensor:
        corner = torch.zeros(2, 2)
        return perceptual_loss(tiny_bundle.vae, backbone, x0, teacher, corner=corner, side_px=32)

    assert loss(teacher.detach()).item() == pytest.approx(0, abs=1e-6)
    first = loss(student)
    first.backward()
    assert student.grad is not None and student.grad.flatten(1).any(dim=1).all()
    assert teacher.grad is None
    with torch.no_grad():
        step = 0.05 * student.grad / student.grad.norm()
        assert loss(student - step) < first
