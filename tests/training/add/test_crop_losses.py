"""The perceptual and the image-text loss on decoded crops."""

from typing import Any

import pytest
import torch
from torch import Tensor

from naruto_add.training.add.batch import Batch, draw_batch
from naruto_add.training.add.crop_losses import CropLosses
from naruto_add.training.add.image_text import ImageText
from tests.training.add.build import Build, add_params, has_no_gradient


class MeanColour:
    """A matcher whose vector of a picture is its mean colour."""

    def images(self, pixels: Tensor) -> Tensor:
        return pixels.mean(dim=(2, 3))

    def texts(self, prompts: Any) -> Tensor:
        return torch.ones(len(prompts), 3)


def make_losses(build: Build, **values: float) -> tuple[CropLosses, Batch]:
    params = add_params(**values)
    data = build.data(params)
    text_vectors = torch.randn(len(data.prompts), 3, generator=torch.Generator().manual_seed(0))
    image_text = ImageText(MeanColour(), text_vectors, accuracy=1.0, chance=0.5)
    losses = CropLosses(build.bundle.vae, params=params, image_text=image_text, device=build.bundle.device)
    return losses, draw_batch(data, params, step=0)


def test_losses_with_weight_0_are_not_computed(build: Build) -> None:
    losses, batch = make_losses(build)
    assert losses(batch.x0, batch.x0, batch) == {}
    assert losses.weighted_sum({"pair_loss": torch.ones(())}) == 0.0


def test_the_weighted_sum_is_of_the_losses_on_crops(build: Build) -> None:
    losses, batch = make_losses(build, perceptual_weight=0.5, image_text_weight=2.0)
    values = losses(batch.x0 + 0.5, batch.x0, batch)
    assert list(values) == ["perceptual_loss", "image_text_loss"]
    expected = 0.5 * values["perceptual_loss"] + 2.0 * values["image_text_loss"]
    torch.testing.assert_close(losses.weighted_sum({**values, "pair_loss": torch.ones(())}), expected)


def test_the_perceptual_loss_is_zero_at_the_target(build: Build) -> None:
    losses, batch = make_losses(build, perceptual_weight=1.0)
    assert losses(batch.x0, batch.x0, batch)["perceptual_loss"].item() == pytest.approx(0, abs=1e-6)


@pytest.mark.parametrize("name", ["perceptual", "image_text"])
def test_a_small_step_along_the_gradient_lowers_the_loss_and_only_x0_has_one(build: Build, name: str) -> None:
    losses, batch = make_losses(build, **{f"{name}_weight": 1.0})
    target = batch.x0.clone().requires_grad_()
    x0 = (batch.x0 + torch.randn(batch.x0.shape, generator=torch.Generator().manual_seed(0))).requires_grad_()
    loss = losses(x0, target, batch)[f"{name}_loss"]
    loss.backward()
    assert x0.grad is not None and x0.grad.flatten(1).any(dim=1).all()
    assert target.grad is None and has_no_gradient(build.bundle.vae)
    with torch.no_grad():
        step = 0.05 * x0.grad / x0.grad.norm()
        assert losses(x0 - step, target, batch)[f"{name}_loss"] < loss
