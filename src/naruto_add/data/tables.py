"""The rows of metadata.csv and metadata.jsonl, each by its line; what is wrong with one is said of that one alone."""

import csv
import json
from collections.abc import Iterator
from dataclasses import dataclass
from io import StringIO
from pathlib import Path
from typing import Any

from naruto_add.data.entries import Reject
from naruto_add.runtime import StageError


@dataclass(frozen=True, kw_only=True)
class Row:
    """A row's values by column, and its place, as in metadata.csv:7."""

    place: str
    values: dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class Table:
    """All rows of a table, in order."""

    columns: list[str]
    rows: list[Row | Reject]


def read_table(file: Path) -> Table:
    """The table. Raises StageError for a CSV file whose first line names no columns, OSError for no file at all."""
    return _csv(file) if file.suffix == ".csv" else _jsonl(file)


def _jsonl(file: Path) -> Table:
    lines = enumerate(file.read_bytes().removeprefix(b"\xef\xbb\xbf").split(b"\n"), start=1)
    rows = [_json_row(line, f"{file.name}:{number}") for number, line in lines if line.strip()]
    columns = {column for row in rows if isinstance(row, Row) for column in row.values}
    return Table(columns=sorted(columns), rows=rows)


def _json_row(line: bytes, place: str) -> Row | Reject:
    try:
        values = json.loads(line.decode("utf-8"))
    except UnicodeDecodeError as error:
        return _bad(place, f"not UTF-8: {error}")
    except (ValueError, RecursionError) as error:
        return _bad(place, f"not JSON: {error}")
    return Row(place=place, values=values) if isinstance(values, dict) else _bad(place, "not a JSON object")


def _csv(file: Path) -> Table:
    text = file.read_bytes().decode("utf-8-sig", "surrogateescape")  # what is not UTF-8 stays with its line
    records = _csv_records(list(StringIO(text, newline="")))
    number, columns = next(records, (1, ""))
    if isinstance(columns, str) or not _is_utf8(columns):
        reason = columns if isinstance(columns, str) else "not UTF-8"
        raise StageError(f"ingest.path: {file} is no table: its line {number} names no columns: {reason or 'empty'}")
    return Table(columns=columns, rows=[_csv_row(each, columns, f"{file.name}:{line}") for line, each in records])


def _csv_records(lines: list[str]) -> Iterator[tuple[int, list[str] | str]]:
    """The records with the numbers of their first lines, blank ones left out; of a bad one, what is wrong with it.

    A quote that nobody closes takes all that follows into its record, so behind a bad one the next *line* is tried.
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
        return _bad(place, fields)
    if not _is_utf8(fields):
        return _bad(place, "not UTF-8")
    if any(fields[len(columns) :]):
        return _bad(place, f"{len(fields)} values for {len(columns)} columns; put quotes around what holds a comma")
    return Row(place=place, values=dict(zip(columns, fields, strict=False)))


def _is_utf8(fields: list[str]) -> bool:
    return not any("\udc80" <= char <= "\udcff" for field in fields for char in field)


def _bad(place: str, detail: str) -> Reject:
    return Reject(name=place, reason="bad_row", detail=detail)
