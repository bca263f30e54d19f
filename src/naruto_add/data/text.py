"""Text files of any origin: read if their encoding is certain, named if it can only be guessed."""

import codecs
import re

from charset_normalizer import from_bytes

_MARKS = (
    (codecs.BOM_UTF8, "utf-8-sig"),
    (codecs.BOM_UTF32_LE, "utf-32"),  # begins with the mark of UTF-16
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)

_LIKELY = ["cp1252", "cp932", "euc_jp", "gb18030", "big5", "cp949", "cp1251", "cp1256"]
"""The encodings that a caption is likely to have; with rarer ones as choices, a short caption would look like those."""
_WESTERN = re.compile(rb"[\0-\x7f]*(?:[\x85\x91-\x94\x96\x97\xc0-\xff](?:[\0-\x7f]+|$))*")
"""ASCII with single letters and marks of cp1252 in it. Other scripts have several bytes above ASCII in a row."""


class UnknownEncodingError(ValueError):
    """The text is not UTF-8 and has no byte order mark. The message says what it looks like and what to do."""


def marked_encoding(data: bytes) -> str | None:
    """The encoding that the byte order mark at the start of `data` names, if there is one."""
    return next((encoding for mark, encoding in _MARKS if data.startswith(mark)), None)


def decode_text(data: bytes) -> str:
    """The text, which is UTF-8 or has a byte order mark. Raises UnknownEncodingError otherwise.

    Other encodings are not guessed: a short text fits several, and each gives other letters.
    """
    encoding = marked_encoding(data) or "utf-8"
    if encoding == "utf-8" and b"\0" in data:
        raise UnknownEncodingError("it holds zero bytes, as UTF-16 without a byte order mark does; save it as UTF-8")
    try:
        return data.decode(encoding)
    except UnicodeDecodeError as error:
        name = encoding.removesuffix("-sig").upper()
        raise UnknownEncodingError(f"not {name}: {error.reason} at byte {error.start}; {_advice(data)}") from error


def _advice(data: bytes) -> str:
    guesses = [] if marked_encoding(data) else _guesses(data)
    if not guesses:
        return "save it as UTF-8"
    command = f"`iconv -f {guesses[0]} -t utf-8`"
    look = ", then look at its letters" if len(guesses) > 1 else ""
    return f"it looks like {' or '.join(guesses)}; save it as UTF-8 ({command}{look})"


def _guesses(data: bytes) -> list[str]:
    """The likely encodings, the likeliest first: charset-normalizer alone takes "café" for Russian."""
    guesses = [match.encoding for match in from_bytes(data, cp_isolation=_LIKELY)]
    return list(dict.fromkeys(["cp1252", *guesses])) if _WESTERN.fullmatch(data) else guesses
