"""The perceptual distance in closed form."""

import pytest
import torch

from naruto_add.losses.perceptual import multi_depth_distance


def test_the_distance_is_that_of_unit_vectors_averaged_over_positions_and_maps() -> None:
    """Per position: orthogonal vectors have distance 2, equal directions 0, opposite ones 4."""
    one = [torch.tensor([[1.0, 5.0], [0.0, 0.0]]).view(1, 2, 1, 2), torch.ones(1, 3, 2, 2)]
    other = [torch.tensor([[0.0, 2.0], [3.0, 0.0]]).view(1, 2, 1, 2), -torch.ones(1, 3, 2, 2)]
    assert multi_depth_distance(one, other).tolist() == pytest.approx([((2 + 0) / 2 + 4) / 2])
