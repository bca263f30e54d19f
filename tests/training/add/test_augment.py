"""Random shifts of what the discriminators are shown."""

import pytest
import torch

from naruto_add.training.add.augment import random_shift

MAPS = torch.arange(256.0).view(1, 1, 16, 16)


def test_probability_0_changes_nothing() -> None:
    assert random_shift(MAPS, torch.zeros(1, 3), probability=0.0) is MAPS


def test_a_shift_is_by_whole_pixels_and_repeats_the_edge() -> None:
    down = random_shift(MAPS, torch.tensor([[0.0, 0.75, 0.5]]), probability=1.0)
    assert torch.equal(down, torch.cat([MAPS[..., :1, :], MAPS[..., :-1, :]], dim=2))
    left = random_shift(MAPS, torch.tensor([[0.0, 0.5, 0.25]]), probability=1.0)
    assert torch.equal(left, torch.cat([MAPS[..., 1:], MAPS[..., -1:]], dim=3))


def test_no_shift_is_larger_than_an_eighth_of_the_side() -> None:
    farthest = random_shift(MAPS, torch.tensor([[0.0, 0.999, 0.0]]), probability=1.0)
    assert farthest[0, 0, 2, 0] == MAPS[0, 0, 0, 2]
    assert farthest[0, 0, 15, 13] == MAPS[0, 0, 13, 15]


def test_the_fraction_of_shifted_items_is_the_probability_and_gradients_pass() -> None:
    draws = torch.rand(400, 3, generator=torch.Generator().manual_seed(0))
    draws[:, 1] = 0.99
    maps = torch.rand(400, 2, 16, 16, generator=torch.Generator().manual_seed(1)).requires_grad_()
    shifted = random_shift(maps, draws, probability=0.3)
    fraction = (shifted != maps).flatten(1).any(dim=1).float().mean().item()
    assert fraction == pytest.approx(0.3, abs=0.07)
    shifted.sum().backward()
    assert maps.grad is not None and maps.grad.sum().item() == pytest.approx(maps.numel())
