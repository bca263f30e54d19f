"""One of a picture's captions is drawn per epoch, as a function of the seed; a single caption is always drawn."""

from pathlib import Path

import torch

from naruto_add.data.alternatives import consecutive_rows, epoch_draws, prompt_rows
from naruto_add.data.batches import batch_indices
from naruto_add.data.dataset import Example


def _example(*prompts: str) -> Example:
    return Example(image_path=Path("a.png"), captions=prompts, prompts=prompts, attributes={})


_ROW_OF = {"": 0, "a": 1, "b": 2, "c": 3, "d": 4}
_ROWS = prompt_rows([_example("a"), _example("b", "c", "d"), _example("a", "d")], _ROW_OF)


def _rows_of_epochs(num_epochs: int, *, seed: int, batch_size: int = 2) -> list[tuple[int, int]]:
    drawn = []
    for step in range(num_epochs * 3 // batch_size):
        pictures = batch_indices(3, batch_size, seed=seed, step=step)
        rows = _ROWS.drawn(torch.tensor(pictures), epoch_draws(pictures, 3, seed=seed, step=step))
        drawn += list(zip(pictures, rows.tolist(), strict=True))
    return drawn


def test_each_picture_gets_its_own_prompts_evenly() -> None:
    drawn = _rows_of_epochs(600, seed=0)
    for picture, rows in enumerate(((1,), (2, 3, 4), (1, 4))):
        counts = [drawn.count((picture, row)) for row in rows]
        assert sum(counts) == 600
        assert min(counts) > 0.8 * 600 / len(rows)


def test_the_draw_is_a_function_of_seed_and_epoch_and_not_of_the_batch_size() -> None:
    assert _rows_of_epochs(8, seed=0) == _rows_of_epochs(8, seed=0, batch_size=3)
    assert _rows_of_epochs(8, seed=0) != _rows_of_epochs(8, seed=1)


def test_consecutive_rows_give_each_picture_its_own_part_of_the_table() -> None:
    rows = consecutive_rows([_example("a"), _example("b", "c", "d"), _example("a", "d")])
    drawn = [
        {int(rows.drawn(torch.tensor([picture]), torch.tensor([d]))) for d in (0.0, 0.5, 0.99)} for picture in range(3)
    ]
    assert drawn == [{0}, {1, 2, 3}, {4, 5}]
