"""The order of batches: every item once per epoch, in an order that depends on seed and epoch."""

import pytest

from naruto_add.data.batches import batch_indices, group_at


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


def test_a_single_group_has_every_step() -> None:
    assert [group_at([7], seed=3, step=step) for step in range(50)] == [(0, step) for step in range(50)]


@pytest.mark.parametrize("sizes", [[10, 6], [1, 99], [5, 5, 5, 85]])
def test_groups_share_the_steps_by_their_sizes_after_any_number_of_steps(sizes: list[int]) -> None:
    drawn = [group_at(sizes, seed=0, step=step) for step in range(300)]
    for group, size in enumerate(sizes):
        numbers = [number for each, number in drawn if each == group]
        assert numbers == list(range(len(numbers)))
        for step in range(0, 300, 7):
            visits = sum(each == group for each, _ in drawn[:step])
            assert abs(visits - step * size / sum(sizes)) < 3


def test_seeds_differ_in_the_order_of_groups() -> None:
    orders = [[group_at([10, 6], seed=seed, step=step)[0] for step in range(20)] for seed in (0, 1, 2)]
    assert orders[0] != orders[1] or orders[0] != orders[2]
