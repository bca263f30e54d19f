"""Messages to the user cannot move the terminal's cursor or forge lines, whatever the names in them."""

import pytest

from naruto_add.runtime.errors import StageError, shown


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("忍者 👩\u200d🎨 é\u3000", "忍者 👩\u200d🎨 é\u3000"),
        ("a\x1b[2Jb", "a\\x1b[2Jb"),
        ("a\r\nb\tc", "a\\r\\nb\\tc"),
        ("\x9b31m", "\\x9b31m"),
        ("a\u202egnp.exe", "a\\u202egnp.exe"),
        ("\udcff", "\\udcff"),
    ],
)
def test_control_characters_are_shown_as_escapes(text: str, expected: str) -> None:
    assert shown(text) == expected
    assert shown(expected) == expected


def test_a_message_keeps_its_own_lines() -> None:
    assert str(StageError("one\x1b[31m\ntwo")) == "one\\x1b[31m\ntwo"
