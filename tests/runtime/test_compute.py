"""Random numbers depend only on the arguments of their generator."""

import torch

from naruto_add.runtime.compute import step_generator


def _draw(*key: int) -> torch.Tensor:
    return torch.randn(4, generator=step_generator(*key))


def test_a_step_draws_the_same_whatever_was_drawn_before() -> None:
    torch.manual_seed(1)
    first = _draw(0, 3)
    torch.manual_seed(2)
    assert torch.equal(_draw(0, 3), first)


def test_seeds_steps_and_streams_draw_different_numbers() -> None:
    draws = [_draw(*key) for key in [(0, 0), (0, 1), (1, 0), (0, 0, 0), (0, 0, 1), (0, 0, 0, 0), (0, 1, 0)]]
    pairs = [(a, b) for index, a in enumerate(draws) for b in draws[index + 1 :]]
    assert not any(torch.equal(a, b) for a, b in pairs)


def test_the_seed_of_a_step_is_the_same_in_every_version() -> None:
    """Another seed would change the results of every training."""
    assert step_generator(0, 3, 1).initial_seed() == 6596661088173356104
