"""The rows of metadata.csv and metadata.jsonl with their line numbers. A damaged row does not affect the others."""

import codecs
import csv
import json
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from io import StringIO
from pathlib import Path, PurePosixPath
from typing import Any

from naruto_add.data.entries import Reject
from naruto_add.data.formats import LFS_POINTER, is_lfs_pointer
from naruto_add.data.text import UnknownEncodingError, decode_text, marked_encoding
from naruto_add.runtime.errors import StageError, shown


@dataclass(frozen=True, kw_only=True)
class Row:
    """A row's values by column, and its place, for example metadata.csv:7."""

    place: str
    values: dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class Table:
    """All rows of a table, in its order."""

    columns: list[str]
    rows: list[Row | Reject]
    damaged: frozenset[str]
    """Pieces of the rows that cannot be read, between their quotes and commas: one may be a picture's name."""


def read_table(file: Path, *, name: str) -> Table:
    """The table; `name` is its name in places.

    Raises StageError if the first line of a CSV file names no columns or one twice, if a byte order mark is wrong, or
    if the file is a pointer of Git LFS; OSError if it is missing.
    """
    data = file.read_bytes().removeprefix(codecs.BOM_UTF8)
    if is_lfs_pointer(data):
        raise StageError(f"ingest.path: {shown(file)} is {LFS_POINTER}")
    if marked_encoding(data):
        try:
            data = decode_text(data).encode("utf-8", "surrogatepass")
        except UnknownEncodingError as error:
            raise StageError(
                f"ingest.path: line 1 of {shown(file)} must name the columns, but it is {error}"
            ) from error
    return _read_csv(file, data, name) if PurePosixPath(name).suffix.lower() == ".csv" else _read_jsonl(data, name)


def _read_jsonl(data: bytes, name: str) -> Table:
    lines = [(number, line) for number, line in enumerate(data.split(b"\n"), start=1) if line.strip()]
    rows = [_json_row(line, f"{name}:{number}") for number, line in lines]
    columns = {column for row in rows if isinstance(row, Row) for column in row.values}
    bad = [line for (_, line), row in zip(lines, rows, strict=True) if isinstance(row, Reject)]
    return Table(columns=sorted(columns), rows=rows, damaged=_pieces(line.decode("utf-8", "replace") for line in bad))


def _json_row(line: bytes, place: str) -> Row | Reject:
    try:
        values = json.loads(decode_text(line), object_pairs_hook=_without_repetition)
    except UnknownEncodingError as error:
        return _bad_row(place, str(error))
    except _RepeatedKeyError as error:
        return _bad_row(place, f"names {error.args[0]!r} twice")
    except (ValueError, RecursionError) as error:
        return _bad_row(place, f"not JSON: {error}")
    return Row(place=place, values=values) if isinstance(values, dict) else _bad_row(place, "not a JSON object")


class _RepeatedKeyError(Exception):
    """An object names a key twice; Python would keep the last value silently."""


def _without_repetition(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    values = dict(pairs)
    if len(values) < len(pairs):
        raise _RepeatedKeyError(_repeated([key for key, _ in pairs]))
    return values


def _read_csv(file: Path, data: bytes, name: str) -> Table:
    text = data.decode("utf-8", "surrogateescape")  # bytes that are not UTF-8 spoil their own row only
    lines = list(StringIO(text, newline=""))
    records = _csv_records(lines)
    number, columns = next(records, (1, ""))
    if isinstance(columns, str) or not _is_utf8(columns):
        problem = columns if isinstance(columns, str) else "not UTF-8"
        raise StageError(
            f"ingest.path: line {number} of {shown(file)} must name the columns, for example file_name,text "
            f"({problem or 'the file is empty'})"
        )
    columns = [column.strip() for column in columns]
    if repeated := _repeated(columns):
        raise StageError(f"ingest.path: {shown(file)} has two columns {repeated!r}; rename or remove one of them")
    numbered = [(line, _csv_row(each, columns, f"{name}:{line}")) for line, each in records]
    bad = [lines[line - 1] for line, row in numbered if isinstance(row, Reject)]
    return Table(columns=columns, rows=[row for _, row in numbered], damaged=_pieces(bad))


def _repeated(names: Sequence[str]) -> str:
    """The first name that is listed twice, or ""; columns without a name do not count."""
    return next((name for index, name in enumerate(names) if name and name in names[:index]), "")


def _pieces(rows: Iterable[str]) -> frozenset[str]:
    return frozenset(piece.strip() for row in rows for piece in re.split(r'["\',;\t]', row))


def _csv_records(lines: list[str]) -> Iterator[tuple[int, list[str] | str]]:
    """The records that are not blank, or what is wrong with them, each with the number of its first line.

    An unclosed quote takes all following lines into its record. Reading therefore goes on at the *line* after a bad
    record's first.
    """
    start = 0
    while start < len(lines):
        reader = csv.reader(map(lines.__getitem__, range(start, len(lines))), strict=True, skipinitialspace=True)
        first = 0
        try:
            for fields in reader:
                if fields:
                    yield start + first + 1, fields
                first = reader.line_num
            return
        except csv.Error as error:
            yield start + first + 1, f"not CSV: {error}"
            start += first + 1


def _csv_row(fields: list[str] | str, columns: list[str], place: str) -> Row | Reject:
    if isinstance(fields, str):
        return _bad_row(place, fields)
    if not _is_utf8(fields):
        return _bad_row(place, "not UTF-8")
    if any(fields[len(columns) :]):
        return _bad_row(place, f"{len(fields)} values for {len(columns)} columns; quote values that contain a comma")
    return Row(place=place, values=dict(zip(columns, fields, strict=False)))


def _is_utf8(fields: list[str]) -> bool:
    """Whether no byte had to be escaped as a surrogate."""
    return not any("\udc80" <= char <= "\udcff" for field in fields for char in field)


def _bad_row(place: str, detail: str) -> Reject:
    return Reject(name=place, reason="bad_row", detail=detail)
