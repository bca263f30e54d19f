"""Timesteps are those of diffusers' samplers, and picture sizes have one notation."""

import numpy as np
import pytest
from diffusers import DDIMScheduler

from naruto_add.config.constants import NUM_TRAIN_TIMESTEPS, sides_px, trailing_timesteps


@pytest.mark.parametrize(
    ("num_steps", "timesteps"), [(1, [999]), (2, [999, 499]), (4, [999, 749, 499, 249]), (3, [999, 666, 332])]
)
def test_trailing_timesteps_of_few_steps(num_steps: int, timesteps: list[int]) -> None:
    assert trailing_timesteps(num_steps) == timesteps


def test_trailing_timesteps_equal_those_of_a_diffusers_scheduler() -> None:
    """Including 61 steps, where rounding adds a step, and 48, where two ways to round differ."""
    scheduler = DDIMScheduler(timestep_spacing="trailing")
    for num_steps in range(1, 101):
        scheduler.set_timesteps(num_steps)
        assert scheduler.timesteps.tolist() == trailing_timesteps(num_steps)


def test_trailing_timesteps_equal_the_formula_of_diffusers_at_every_number_of_steps() -> None:
    for num_steps in range(1, NUM_TRAIN_TIMESTEPS + 1):
        expected = np.arange(NUM_TRAIN_TIMESTEPS, 0, -NUM_TRAIN_TIMESTEPS / num_steps).round() - 1
        assert trailing_timesteps(num_steps) == expected.tolist()


@pytest.mark.parametrize(("resolution", "sides"), [(96, (96, 96)), ("96", (96, 96)), ("128x64", (128, 64))])
def test_a_resolution_is_a_side_or_width_and_height(resolution: int | str, sides: tuple[int, int]) -> None:
    assert sides_px(resolution) == sides


@pytest.mark.parametrize("resolution", ["", "96x", "x96", "96by64", "-96", "96.0", "96x64x3"])
def test_other_resolutions_are_refused(resolution: str) -> None:
    with pytest.raises(ValueError, match="is neither a side nor WIDTHxHEIGHT"):
        sides_px(resolution)
