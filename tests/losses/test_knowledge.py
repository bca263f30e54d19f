"""Closed forms of the knowledge distillation losses."""

import pytest
import torch

from naruto_add.losses.knowledge import feature_loss, weighted_error


def test_weighted_error_is_the_mean_of_weighted_squared_errors() -> None:
    prediction = torch.tensor([[1.0, 1.0], [2.0, 2.0], [9.0, 9.0]])
    loss = weighted_error(prediction, torch.zeros(3, 2), torch.tensor([1.0, 0.5, 0.0]))
    assert loss.item() == pytest.approx((1 * 1 + 0.5 * 4) / 3)


def test_no_gradient_reaches_the_target() -> None:
    prediction, target = (torch.randn(2, 3, requires_grad=True) for _ in range(2))
    loss = weighted_error(prediction, target, torch.ones(2)) + feature_loss([prediction], [target])
    loss.backward()
    assert target.grad is None
    assert prediction.grad is not None


def test_feature_loss_does_not_depend_on_the_scale_of_a_block() -> None:
    student, teacher = [torch.randn(2, 3), torch.randn(2, 5)], [torch.randn(2, 3), torch.randn(2, 5)]
    scaled = feature_loss([1000 * student[0], student[1]], [1000 * teacher[0], teacher[1]])
    torch.testing.assert_close(scaled, feature_loss(student, teacher))
    zeros = feature_loss([torch.zeros(2, 3), torch.zeros(2, 5)], teacher)
    assert zeros.item() == pytest.approx(1)
    assert feature_loss(teacher, teacher).item() == 0
