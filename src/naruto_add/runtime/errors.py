"""The error that a stage reports to the user, the errors that caused another one, and when tracebacks are shown."""

import os
import unicodedata
from collections.abc import Iterator

_ESCAPED_CATEGORIES = ("Cc", "Cf", "Cs", "Zl", "Zp")
_JOINERS = "\u200c\u200d"
"""They join emoji and letters."""


class StageError(RuntimeError):
    """A stage cannot continue. The message is shown to the user as it is and says what to do.

    Control characters and direction marks in it are escaped, because names of foreign files may contain any.
    """

    def __init__(self, message: str) -> None:
        super().__init__("\n".join(map(shown, message.split("\n"))))


def shown(text: object) -> str:
    """The text in one line, with escapes for characters that move a terminal's cursor, set colours or reorder text."""
    return "".join(_escaped(char) if _is_escaped(char) else char for char in str(text))


def shows_tracebacks() -> bool:
    """Whether NARUTO_ADD_TRACEBACK in the environment asks for the traceback of an error instead of its message."""
    return bool(os.environ.get("NARUTO_ADD_TRACEBACK"))


def with_causes(error: BaseException) -> Iterator[BaseException]:
    """The error, the one that caused it or was being handled when it was raised, and so on."""
    link: BaseException | None = error
    while link is not None:
        yield link
        link = link.__cause__ or link.__context__


def _is_escaped(char: str) -> bool:
    return unicodedata.category(char) in _ESCAPED_CATEGORIES and char not in _JOINERS


def _escaped(char: str) -> str:
    return char.encode("unicode_escape").decode("ascii")
