"""The order in which training visits the items of a data set."""

import numpy as np


def batch_indices(num_items: int, batch_size: int, *, seed: int, step: int) -> list[int]:
    """The items of batch `step`, a function of the arguments alone.

    Every epoch is a new permutation of all items. A batch may contain the end of one epoch and the start of the next.
    """
    first = step * batch_size
    positions = range(first, first + batch_size)
    epochs = {position // num_items for position in positions}
    order = {epoch: np.random.default_rng((seed, epoch)).permutation(num_items) for epoch in epochs}
    return [int(order[position // num_items][position % num_items]) for position in positions]
