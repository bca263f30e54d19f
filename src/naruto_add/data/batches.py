"""The order in which training visits the items of a data set."""

from collections.abc import Sequence

import numpy as np

GOLDEN_RATIO = (5**0.5 - 1) / 2
_STREAM = 2
"""Separates the order of the groups from the order of the items, which has the same seed."""


def batch_indices(num_items: int, batch_size: int, *, seed: int, step: int) -> list[int]:
    """The items of batch `step`, a function of the arguments alone.

    Every epoch is a new permutation of all items. A batch may contain the end of one epoch and the start of the next.
    """
    first = step * batch_size
    positions = range(first, first + batch_size)
    epochs = {position // num_items for position in positions}
    order = {epoch: np.random.default_rng((seed, epoch)).permutation(num_items) for epoch in epochs}
    return [int(order[position // num_items][position % num_items]) for position in positions]


def group_at(group_sizes: Sequence[int], *, seed: int, step: int) -> tuple[int, int]:
    """The group whose items batch `step` contains, and the number of earlier batches of that group.

    A function of the arguments alone. After every number of steps, each group has had a share of the batches that is
    about its share of the items, so that all items are visited about equally often: multiples of the golden ratio are
    spread evenly. The items of a batch are `batch_indices` of the group at the number that is returned.
    """
    edges = np.cumsum(group_sizes)
    start = np.random.default_rng((seed, _STREAM)).random()
    places = (start + np.arange(step + 1) * GOLDEN_RATIO) % 1 * edges[-1]
    groups = np.searchsorted(edges[:-1], places, side="right")
    return int(groups[step]), int((groups[:step] == groups[step]).sum())
