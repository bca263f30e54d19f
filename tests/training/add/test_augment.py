"""Augmentation of what discriminators see, and its strength."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from naruto_add.params import Add, load_params
from naruto_add.training.add.augment import AugmentStrength, augmented, mean_sign

PROFILE = load_params(Path(__file__).parents[3] / "profiles/mini.yaml")
MAPS = torch.arange(16.0).view(1, 1, 4, 4)


def add_params(**values: Any) -> Add:
    return Add.model_validate({**PROFILE.add.model_dump(), **values})


def test_no_strength_changes_nothing() -> None:
    assert augmented(MAPS, torch.zeros(1, 6), strength=0.0, params=add_params(augment_flip=True)) is MAPS


def test_a_move_is_whole_places_and_repeats_the_edge() -> None:
    params = add_params(augment_max_shift=0.5, augment_flip=False)
    moved = augmented(MAPS, torch.tensor([[0.0, 0.0, 0.75, 0.5, 0.0, 0.0]]), strength=1.0, params=params)  # one down
    assert moved[0, 0].tolist() == [[0, 1, 2, 3], [0, 1, 2, 3], [4, 5, 6, 7], [8, 9, 10, 11]]
    moved = augmented(
        MAPS, torch.tensor([[0.0, 0.0, 0.5, 0.25, 0.0, 0.0]]), strength=1.0, params=params
    )  # one to the left
    assert moved[0, 0, 0].tolist() == [1, 2, 3, 3]


def test_mirrors_only_where_allowed() -> None:
    draws = torch.tensor([[0.0, 0.9, 0.0, 0.0, 0.0, 0.0]])
    one, other = (
        augmented(MAPS, draws, strength=0.5, params=add_params(augment_flip=is_allowed)) for is_allowed in (True, False)
    )
    assert torch.equal(one, MAPS.flip(3))
    assert torch.equal(other, MAPS)


def test_a_cut_blanks_a_square_of_what_is_moved_and_nothing_else() -> None:
    params = add_params(augment_max_shift=0.0, augment_cutout=0.5)
    maps = torch.ones(2, 3, 4, 4, requires_grad=True)
    draws = torch.tensor([[0.9, 0.1, 0.5, 0.5, 0.99, 0.4], [0.9, 0.9, 0.5, 0.5, 0.99, 0.4]])
    cut, whole = augmented(maps, draws, strength=0.5, params=params)
    assert cut[0].tolist() == [[1, 1, 1, 1], [1, 1, 1, 1], [1, 0, 0, 1], [1, 0, 0, 1]]
    assert torch.equal(whole, torch.ones(3, 4, 4))
    (cut.sum() + whole.sum()).backward()
    assert maps.grad is not None and torch.equal(maps.grad[0], cut) and torch.equal(maps.grad[1], whole)


def test_items_are_augmented_as_often_as_the_strength_says() -> None:
    draws = torch.rand(400, 6, generator=torch.Generator().manual_seed(0))
    params = add_params(augment_flip=True, augment_max_shift=0.5)
    maps = torch.rand(400, 2, 8, 8, generator=torch.Generator().manual_seed(1)).requires_grad_()
    result = augmented(maps, draws, strength=0.5, params=params)
    is_changed = (result != maps).flatten(1).any(dim=1).float().mean().item()
    assert is_changed == pytest.approx(1 - 0.5 * 0.75, abs=0.08)
    result.sum().backward()
    assert maps.grad is not None and maps.grad.sum().item() == pytest.approx(maps.numel())


def logits(positive: int) -> list[torch.Tensor]:
    """Of 10 patches, so many are taken for real."""
    return [torch.where(torch.arange(10) < positive, 2.0, -3.0).view(1, 10)] * 2


def adapt(strength: AugmentStrength, seen: list[Tensor], unseen: list[Tensor]) -> None:
    strength.adapt(seen=mean_sign(seen).item(), unseen=mean_sign(unseen).item())


def test_the_strength_rises_for_what_is_learnt_by_heart_and_falls_otherwise() -> None:
    strength = AugmentStrength(add_params(augment="adaptive", augment_strength=0.5, augment_adapt_steps=40))
    adapt(strength, logits(10), logits(4))
    assert strength.scalars() == pytest.approx({"augment_strength": 0.6, "seen_sign": 1.0, "unseen_sign": -0.2})
    adapt(strength, logits(10), logits(10))  # right about held-out pictures as well
    assert strength.value == pytest.approx(0.5)
    adapt(strength, logits(5), logits(5))  # fooled
    assert strength.value == pytest.approx(0.4)
    for _ in range(20):
        adapt(strength, logits(10), logits(0))
    assert strength.value == 1.0
    other = AugmentStrength(add_params(augment="adaptive"))
    other.load_state_dict(strength.state_dict())
    assert other.scalars() == strength.scalars()


def test_a_fixed_strength_is_never_due_and_off_is_none() -> None:
    fixed = AugmentStrength(add_params(augment="fixed", augment_strength=0.3))
    assert (fixed.value, fixed.is_due(0), fixed.scalars()) == (0.3, False, {})
    assert AugmentStrength(add_params(augment="off", augment_strength=0.3)).value == 0.0
    adaptive = AugmentStrength(add_params(augment="adaptive"))
    assert [adaptive.is_due(step) for step in range(5)] == [True, False, False, False, True]
