"""Randomness depends on its arguments alone, and an epoch shows every item once."""

import pytest
import torch

from naruto_add.compute import batch_indices, step_generator


def _draw(*key: int) -> torch.Tensor:
    return torch.randn(4, generator=step_generator(*key))


def test_a_step_draws_the_same_every_time() -> None:
    torch.manual_seed(1)
    first = _draw(0, 3)
    torch.manual_seed(2)
    assert torch.equal(_draw(0, 3), first)


def test_seeds_steps_and_streams_are_apart() -> None:
    draws = [_draw(*key) for key in [(0, 0), (0, 1), (1, 0), (0, 0, 0), (0, 0, 1), (0, 0, 0, 0), (0, 1, 0)]]
    pairs = [(a, b) for i, a in enumerate(draws) for b in draws[i + 1 :]]
    assert not any(torch.equal(a, b) for a, b in pairs)


@pytest.mark.parametrize(("num_items", "batch_size"), [(10, 5), (7, 3), (4, 10), (1, 2)])
def test_every_epoch_is_a_permutation(num_items: int, batch_size: int) -> None:
    num_epochs = 3
    num_steps = -(-num_epochs * num_items // batch_size)
    batches = [batch_indices(num_items, batch_size, seed=0, step=step) for step in range(num_steps)]
    assert all(len(batch) == batch_size for batch in batches)
    drawn = [index for batch in batches for index in batch]
    epochs = [drawn[epoch * num_items : (epoch + 1) * num_items] for epoch in range(num_epochs)]
    assert all(sorted(epoch) == list(range(num_items)) for epoch in epochs)


def test_epochs_and_seeds_have_orders_of_their_own() -> None:
    orders = [batch_indices(20, 20, seed=seed, step=step) for seed, step in [(0, 0), (0, 1), (1, 0)]]
    assert orders[0] != orders[1]
    assert orders[0] != orders[2]
