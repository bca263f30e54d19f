"""Captions are cleaned once and counted in the base model's tokens."""

from pathlib import Path

import pytest

from naruto_add.data.captions import clean_caption, clean_captions, count_tokens
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
        pytest.param("\u200b\u200d\u2060", "", id="zero-width characters only"),
        pytest.param("\u200e\u202b \u2069", "", id="direction marks only"),
        pytest.param("\ufe0f\u0301", "", id="marks without a letter"),
        pytest.param("\u3164 \u2800", "", id="letters that show nothing"),
        pytest.param("\u200fולד", "\u200fולד", id="direction mark before letters"),
    ],
)
def test_captions_are_cleaned(text: object, cleaned: str) -> None:
    assert clean_caption(text) == cleaned
    assert clean_caption(cleaned) == cleaned


def test_tokens_are_counted_by_the_base_models_tokenizer() -> None:
    counts = count_tokens(["a man", "a " * 75, "a " * 76], str(_MODEL), "", prompt_template="{caption}", num_chunks=1)
    assert (counts.max, counts.lost) == (78, {"a " * 76: "a "})
    assert counts.mean == pytest.approx((4 + 77 + 78) / 3)


def test_each_further_chunk_keeps_75_tokens_more() -> None:
    caption = "a " * 75 + "b " * 75 + "the end"
    for num_chunks, lost in ((1, "b " * 75 + "the end"), (2, "the end"), (3, None)):
        found = count_tokens([caption], str(_MODEL), "", prompt_template="{caption}", num_chunks=num_chunks).lost
        assert found == ({} if lost is None else {caption: lost})


def test_the_lost_part_of_a_caption_begins_at_the_first_token_that_is_cut_off() -> None:
    caption = "a man " * 37 + "with unbelievable hair, ÉTUDE 忍者"
    (lost,) = count_tokens([caption, "a man"], str(_MODEL), "", prompt_template="{caption}", num_chunks=1).lost.values()
    assert caption.endswith(lost)
    seen, all_tokens = (
        count_tokens([text], str(_MODEL), "", prompt_template="{caption}", num_chunks=1).max
        for text in (caption.removesuffix(lost), caption)
    )
    assert seen <= 77 < all_tokens
    assert lost.endswith("hair, ÉTUDE 忍者")


@pytest.mark.parametrize(
    ("texts", "cleaned"),
    [
        ("a man", ("a man",)),
        (["a man ", "", "a  man", "a ninja", 3, None], ("a man", "a ninja")),
        (("a man",), ("a man",)),
        ([], ()),
        (None, ()),
        ({"en": "a man"}, ()),
    ],
)
def test_the_captions_of_a_picture_are_cleaned_and_each_is_kept_once(texts: object, cleaned: tuple[str, ...]) -> None:
    assert clean_captions(texts) == cleaned


def test_a_missing_tokenizer_is_an_error_that_names_the_parameter(tmp_path: Path) -> None:
    with pytest.raises(StageError, match=r"base\.model: the tokenizer of .* cannot be loaded"):
        count_tokens(["a man"], str(tmp_path), "", prompt_template="{caption}", num_chunks=1)
