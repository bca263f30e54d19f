"""Closed forms of the hinge losses and of the R1 penalty."""

import pytest
import torch
from torch import Tensor

from naruto_add.losses.adversarial import discriminator_hinge, generator_hinge, r1_penalty


def test_generator_hinge_is_the_negated_mean_logit() -> None:
    logits = torch.tensor([[1.0, -3.0], [0.5, 0.5]])
    assert generator_hinge(logits).item() == pytest.approx(0.25)


def test_generator_hinge_has_the_same_gradient_for_every_patch() -> None:
    logits = torch.zeros(2, 4, requires_grad=True)
    generator_hinge(logits).backward()
    torch.testing.assert_close(logits.grad, torch.full((2, 4), -1 / 8))


def test_discriminator_hinge_is_the_mean_distance_to_the_margin() -> None:
    real = torch.tensor([[2.0, 0.5]])  # max(0, 1 - real): 0 and .5
    fake = torch.tensor([[-2.0, 0.0], [-1.0, 1.0]])  # max(0, 1 + fake): 0, 1, 0 and 2
    assert discriminator_hinge(real, fake).item() == pytest.approx(0.25 + 0.75)


def test_discriminator_hinge_is_zero_without_gradient_beyond_the_margin() -> None:
    real = torch.full((3, 2), 1.5, requires_grad=True)
    fake = torch.full((3, 2), -1.5, requires_grad=True)
    loss = discriminator_hinge(real, fake)
    loss.backward()
    assert loss.item() == 0
    assert real.grad is not None and not real.grad.any()
    assert fake.grad is not None and not fake.grad.any()


def test_r1_of_a_linear_head_is_the_squared_norm_of_its_weight() -> None:
    weight = torch.randn(3, 4, 4, generator=torch.Generator().manual_seed(0))
    inputs = torch.randn(5, 3, 4, 4, requires_grad=True)
    logits = torch.einsum("bchw,chw->b", inputs, weight)[:, None]
    torch.testing.assert_close(r1_penalty(logits, inputs), weight.square().sum())


def test_r1_of_a_quadratic_head_is_the_mean_over_pictures() -> None:
    inputs = torch.tensor([[1.0, 2.0], [0.0, 3.0]], requires_grad=True)
    logits = inputs.square() / 2  # the gradient is the input itself
    assert r1_penalty(logits, inputs).item() == pytest.approx((5 + 9) / 2)


def test_r1_has_a_gradient_for_the_heads_weight() -> None:
    weight = torch.tensor([3.0, 4.0], requires_grad=True)
    inputs = torch.randn(6, 2, requires_grad=True)
    r1_penalty((inputs @ weight)[:, None], inputs).backward()
    gradient: Tensor | None = weight.grad
    torch.testing.assert_close(gradient, torch.tensor([6.0, 8.0]))
