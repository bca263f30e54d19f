import pytest
import torch

from naruto_add.losses.distillation import smooth_l1_distillation


def test_is_quadratic_near_and_linear_far() -> None:
    x0_teacher = torch.zeros(2, 1, 1, 1)
    x0_student = torch.tensor([0.5, 3.0]).view(2, 1, 1, 1)
    loss = smooth_l1_distillation(x0_student, x0_teacher, torch.ones(2))
    assert loss.item() == pytest.approx((0.5**2 / 2 + (3 - 0.5)) / 2)


def test_weighs_every_picture() -> None:
    x0_student, x0_teacher = torch.full((2, 4, 2, 2), 2.0), torch.zeros(2, 4, 2, 2)
    loss = smooth_l1_distillation(x0_student, x0_teacher, torch.tensor([1.0, 0.25]))
    assert loss.item() == pytest.approx(1.5 * (1 + 0.25) / 2)


def test_no_gradient_reaches_the_teachers_side() -> None:
    x0_student, x0_teacher = (torch.randn(3, 4, 2, 2, requires_grad=True) for _ in range(2))
    smooth_l1_distillation(x0_student, x0_teacher, torch.ones(3)).backward()
    assert x0_student.grad is not None and x0_student.grad.any()
    assert x0_teacher.grad is None
