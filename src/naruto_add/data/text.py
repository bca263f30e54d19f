"""Text files of any origin: read if their encoding is certain, named if it can only be guessed."""

import codecs

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
    guesses = [] if marked_encoding(data) else [match.encoding for match in from_bytes(data, cp_isolation=_LIKELY)]
    if not guesses:
        return "save it as UTF-8"
    return f"it looks like {' or '.join(guesses)}; save it as UTF-8 (`iconv -f {guesses[0]} -t utf-8`)"
