"""Captions are cleaned once and counted in the base model's tokens."""

from pathlib import Path

import pytest

from naruto_add.data.captions import clean_caption, count_tokens
from naruto_add.runtime.errors import StageError

_MODEL = Path(__file__).parents[2] / "base/model"


@pytest.mark.parametrize(
    ("text", "cleaned"),
    [
        pytest.param("  a man \t with\r\n hair ", "a man with hair", id="white space"),
        pytest.param("e\u0301tude", "étude", id="decomposed accent"),
        pytest.param("a\u00a0man\u3000here", "a man here", id="Unicode spaces"),
        pytest.param("a\x00 m\x07an", "a man", id="control characters"),
        pytest.param("\ufeffa man", "a man", id="byte order mark"),
        pytest.param("\ud83d alone", "alone", id="lone surrogate"),
        pytest.param("忍者 👩‍🎨", "忍者 👩‍🎨", id="joined emoji"),
        pytest.param(" \n\t", "", id="only white space"),
        pytest.param(None, "", id="missing"),
        pytest.param(7, "", id="number"),
        pytest.param(["a man"], "", id="list"),
    ],
)
def test_captions_are_cleaned(text: object, cleaned: str) -> None:
    assert clean_caption(text) == cleaned
    assert clean_caption(cleaned) == cleaned


def test_tokens_are_counted_by_the_base_models_tokenizer() -> None:
    counts = count_tokens(["a man", "a " * 75, "a " * 76], str(_MODEL), "")
    assert (counts.max, counts.num_truncated) == (78, 1)
    assert counts.mean == pytest.approx((4 + 77 + 78) / 3)


def test_a_missing_tokenizer_is_an_error_that_names_the_parameter(tmp_path: Path) -> None:
    with pytest.raises(StageError, match=r"base\.model: the tokenizer of .* cannot be loaded"):
        count_tokens(["a man"], str(tmp_path), "")
