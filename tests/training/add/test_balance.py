"""The balance of two losses' gradients."""

import math

import pytest
import torch

from naruto_add.training.add.balance import DECAY, GradientBalance, gradient


def test_the_scale_is_the_ratio_of_the_norms_and_0_before_they_were_measured() -> None:
    balance = GradientBalance()
    assert balance.scale == 0
    balance.note(distill=4.0, adversarial=100.0)
    assert balance.scale == pytest.approx(0.2)


def test_squared_norms_are_averaged_over_steps() -> None:
    balance = GradientBalance()
    balance.note(distill=4.0, adversarial=100.0)
    balance.note(distill=8.0, adversarial=100.0)
    assert balance.scale == pytest.approx(math.sqrt((DECAY * 4 + (1 - DECAY) * 8) / 100))


@pytest.mark.parametrize(
    ("distill", "adversarial"), [(math.nan, 1.0), (1.0, math.inf), (1.0, 0.0)], ids=["nan", "infinite", "none"]
)
def test_a_step_without_a_usable_norm_changes_nothing(distill: float, adversarial: float) -> None:
    balance = GradientBalance()
    balance.note(distill=4.0, adversarial=100.0)
    balance.note(distill=distill, adversarial=adversarial)
    assert balance.scale == pytest.approx(0.2)


def test_the_state_can_be_restored() -> None:
    balance, other = GradientBalance(), GradientBalance()
    balance.note(distill=4.0, adversarial=100.0)
    other.load_state_dict(balance.state_dict())
    assert other.scale == balance.scale


def test_the_gradient_of_a_loss_that_does_not_depend_on_x0_is_0() -> None:
    x0 = torch.ones(2, 1, 1, 1, requires_grad=True)
    assert torch.equal(gradient(x0.square().sum(), x0), torch.full_like(x0, 2.0))
    assert torch.equal(gradient(torch.ones(()), x0), torch.zeros_like(x0))
