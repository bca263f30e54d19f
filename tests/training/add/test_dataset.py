"""Which real pictures the validation score compares with."""

from pathlib import Path

import pytest

from naruto_add.data.dataset import Example
from naruto_add.training.add.dataset import SCORE_PICTURES, score_examples

LEAST, MOST = SCORE_PICTURES


def _examples(split: str, count: int) -> list[Example]:
    return [
        Example(image_path=Path(f"{split}_{index:04}.png"), captions=("a",), prompts=("a",), attributes={})
        for index in range(count)
    ]


@pytest.mark.parametrize("count", [LEAST, LEAST + 1, MOST])
def test_all_validation_pictures_and_no_others_are_used_in_their_order(count: int) -> None:
    validation = _examples("validation", count)
    assert score_examples(validation, _examples("train", 500), seed=0) == validation


def test_of_a_large_split_a_random_part_is_used_that_depends_on_the_seed() -> None:
    validation, train = _examples("validation", 4 * MOST), _examples("train", 500)
    chosen = score_examples(validation, train, seed=0)
    assert len(chosen) == MOST and {item.image_path for item in chosen} < {item.image_path for item in validation}
    assert sum(item in validation[: 2 * MOST] for item in chosen) == pytest.approx(MOST / 2, rel=0.2)  # of all parts
    assert chosen == score_examples(validation, train, seed=0) != score_examples(validation, train, seed=1)


def test_a_small_split_is_filled_up_with_a_random_part_of_the_training_pictures() -> None:
    validation, train = _examples("validation", 4), _examples("train", 400)
    chosen = score_examples(validation, train, seed=0)
    assert chosen[:4] == validation and len(chosen) == LEAST
    assert chosen[4:] != train[: LEAST - 4] and all(item in train for item in chosen[4:])


def test_a_small_data_set_gives_all_that_it_has() -> None:
    validation, train = _examples("validation", 1), _examples("train", 5)
    assert score_examples(validation, train, seed=0) == [*validation, *train]
