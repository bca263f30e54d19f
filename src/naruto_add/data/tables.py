"""The rows of metadata.csv and metadata.jsonl with their line numbers. A damaged row costs only itself."""

import csv
import json
from collections.abc import Iterator
from dataclasses import dataclass
from io import StringIO
from pathlib import Path
from typing import Any

from naruto_add.data.entries import Reject
from naruto_add.runtime.errors import StageError


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


def read_table(file: Path) -> Table:
    """The table. Raises StageError if the first line of a CSV file names no columns, OSError if the file is missing."""
    return _read_csv(file) if file.suffix == ".csv" else _read_jsonl(file)


def _read_jsonl(file: Path) -> Table:
    lines = enumerate(file.read_bytes().removeprefix(b"\xef\xbb\xbf").split(b"\n"), start=1)
    rows = [_json_row(line, f"{file.name}:{number}") for number, line in lines if line.strip()]
    columns = {column for row in rows if isinstance(row, Row) for column in row.values}
    return Table(columns=sorted(columns), rows=rows)


def _json_row(line: bytes, place: str) -> Row | Reject:
    try:
        values = json.loads(line.decode("utf-8"))
    except UnicodeDecodeError as error:
        return _bad_row(place, f"not UTF-8: {error}")
    except (ValueError, RecursionError) as error:
        return _bad_row(place, f"not JSON: {error}")
    return Row(place=place, values=values) if isinstance(values, dict) else _bad_row(place, "not a JSON object")


def _read_csv(file: Path) -> Table:
    text = file.read_bytes().decode("utf-8-sig", "surrogateescape")  # bytes that are not UTF-8 spoil their own row only
    records = _csv_records(list(StringIO(text, newline="")))
    number, columns = next(records, (1, ""))
    if isinstance(columns, str) or not _is_utf8(columns):
        problem = columns if isinstance(columns, str) else "not UTF-8"
        raise StageError(
            f"ingest.path: line {number} of {file} must name the columns, for example file_name,text "
            f"({problem or 'the file is empty'})"
        )
    return Table(columns=columns, rows=[_csv_row(each, columns, f"{file.name}:{line}") for line, each in records])


def _csv_records(lines: list[str]) -> Iterator[tuple[int, list[str] | str]]:
    """The records that are not blank, or what is wrong with them, each with the number of its first line.

    An unclosed quote takes all following lines into its record. Reading therefore goes on at the *line* after a bad
    record's first.
    """
    start = 0
    while start < len(lines):
        reader = csv.reader(map(lines.__getitem__, range(start, len(lines))), strict=True)
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
