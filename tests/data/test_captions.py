"""Captions are cleaned once and counted in the base model's tokens."""

from pathlib import Path

import pytest

from naruto_add.data.captions import clean_caption, count_tokens
from naruto_add.runtime import StageError

_MODEL = Path(__file__).parents[2] / "base/model"


@pytest.mark.parametrize(
    ("text", "cleaned"),
    [
        ("  a man \t with\r\n hair ", "a man with hair"),
        ("e\u0301tude", "étude"),
        ("a\u00a0man\u3000here", "a man here"),
        ("a\x00 m\x07an", "a man"),
        ("\ufeffa man", "a man"),
        ("\ud83d alone", "alone"),
        ("忍者 👩‍🎨", "忍者 👩‍🎨"),
        (" \n\t", ""),
        (None, ""),
        (7, ""),
        (["a man"], ""),
    ],
)
def test_captions_are_cleaned(text: object, cleaned: str) -> None:
    assert clean_caption(text) == cleaned
    assert clean_caption(cleaned) == cleaned


def test_tokens_are_the_base_models_own() -> None:
    counts = count_tokens(["a man", "a " * 75, "a " * 76], str(_MODEL), "")
    assert (counts.max, counts.num_truncated) == (78, 1)
    assert counts.mean == pytest.approx((4 + 77 + 78) / 3)


def test_a_missing_tokenizer_is_an_error_that_names_the_parameter(tmp_path: Path) -> None:
    with pytest.raises(StageError, match=r"base\.model: .* gives no tokenizer"):
        count_tokens(["a man"], str(tmp_path), "")
