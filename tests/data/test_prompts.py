"""Prompt templates."""

from naruto_add.data.prompts import fill_template


def test_only_the_caption_placeholder_is_replaced() -> None:
    assert fill_template("{x} {caption}, {ink}", "a {y} man") == "{x} a {y} man, {ink}"
