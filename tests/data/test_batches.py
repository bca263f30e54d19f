"""The order of batches: every item once per epoch, in an order that depends on seed and epoch."""

import pytest

from naruto_add.data.batches import batch_indices


@pytest.mark.parametrize(("num_items", "batch_size"), [(10, 5), (7, 3), (4, 10), (1, 2)])
def test_every_epoch_is_a_permutation(num_items: int, batch_size: int) -> None:
    num_epochs = 3
    num_steps = -(-num_epochs * num_items // batch_size)
    batches = [batch_indices(num_items, batch_size, seed=0, step=step) for step in range(num_steps)]
    assert all(len(batch) == batch_size for batch in batches)
    drawn = [index for batch in batches for index in batch]
    epochs = [drawn[epoch * num_items : (epoch + 1) * num_items] for epoch in range(num_epochs)]
    assert all(sorted(epoch) == list(range(num_items)) for epoch in epochs)


def test_epochs_and_seeds_differ_in_their_order() -> None:
    orders = [batch_indices(20, 20, seed=seed, step=step) for seed, step in [(0, 0), (0, 1), (1, 0)]]
    assert orders[0] != orders[1]
    assert orders[0] != orders[2]
