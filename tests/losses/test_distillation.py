"""Closed forms of the distances between the student's latents and their target."""

import pytest
import torch

from naruto_add.losses.distillation import pseudo_huber, smooth_l1_distillation


def test_smooth_l1_is_quadratic_for_small_errors_and_linear_for_large_ones() -> None:
    x0_teacher = torch.zeros(2, 1, 1, 1)
    x0_student = torch.tensor([0.5, 3.0]).view(2, 1, 1, 1)
    loss = smooth_l1_distillation(x0_student, x0_teacher, torch.ones(2))
    assert loss.item() == pytest.approx((0.5**2 / 2 + (3 - 0.5)) / 2)


def test_smooth_l1_is_the_mean_of_weighted_distances() -> None:
    x0_student, x0_teacher = torch.full((2, 4, 2, 2), 2.0), torch.zeros(2, 4, 2, 2)
    loss = smooth_l1_distillation(x0_student, x0_teacher, torch.tensor([1.0, 0.25]))
    assert loss.item() == pytest.approx(1.5 * (1 + 0.25) / 2)


def test_no_gradient_of_smooth_l1_reaches_the_teacher() -> None:
    x0_student, x0_teacher = (torch.randn(3, 4, 2, 2, requires_grad=True) for _ in range(2))
    smooth_l1_distillation(x0_student, x0_teacher, torch.ones(3)).backward()
    assert x0_student.grad is not None and x0_student.grad.any()
    assert x0_teacher.grad is None


def test_pseudo_huber_is_quadratic_for_small_errors_and_linear_for_large_ones() -> None:
    target = torch.zeros(1, 1, 1, 2)
    near, far = torch.full_like(target, 1e-3), torch.full_like(target, 3.0)
    assert pseudo_huber(near, target, delta=0.1).item() == pytest.approx(1e-3**2 / (2 * 0.1), rel=1e-3)
    assert pseudo_huber(far, target, delta=0.1).item() == pytest.approx(3.0 - 0.1, rel=1e-3)
    assert pseudo_huber(target, target, delta=0.1).item() == 0


def test_no_gradient_of_pseudo_huber_reaches_the_target() -> None:
    x0_student, target = (torch.randn(3, 4, 2, 2, requires_grad=True) for _ in range(2))
    pseudo_huber(x0_student, target, delta=1e-3).backward()
    assert x0_student.grad is not None and x0_student.grad.any()
    assert target.grad is None
