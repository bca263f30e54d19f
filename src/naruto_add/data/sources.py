"""Where captioned pictures come from: one stream of entries, whatever holds them."""

import csv
import json
import os
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial
from io import StringIO
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from naruto_add.data.images import Reason, picture_suffixes
from naruto_add.params import Ingest
from naruto_add.runtime import StageError

_ROWS_AT_ONCE = 64


@dataclass(frozen=True, kw_only=True)
class Drawing:
    """A picture that is not in a file: drawn by our own code, caption and attributes with it."""

    index: int
    seed: int


@dataclass(frozen=True, kw_only=True)
class Entry:
    """One picture and what its source says of it, none of it looked at yet."""

    name: str
    picture: Path | bytes | Drawing
    caption: object = None
    attributes: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Reject:
    """An entry that is not taken, and why."""

    name: str
    reason: Reason
    detail: str


@dataclass(frozen=True, kw_only=True)
class Source:
    """The entries of a source in its own order, some rejects already."""

    num_entries: int
    entries: Iterable[Entry | Reject]


def open_source(params: Ingest) -> Source:
    """The source that the parameters name. Raises StageError where it cannot be read as a whole."""
    source = _opened(params)
    if not source.num_entries:
        raise StageError(f"{named_source(params)} holds no pictures")
    return source


def named_source(params: Ingest) -> str:
    """The parameter that says where the pictures come from, with its value, as error messages begin."""
    match params.source:
        case "shinobi":
            return f"ingest.num_drawings: {params.num_drawings}"
        case "folder" | "parquet":
            return f"ingest.path: {params.path!r}"
        case "hub":
            return f"ingest.hub_dataset: {params.hub_dataset!r}"


def _opened(params: Ingest) -> Source:
    match params.source:
        case "shinobi":
            return _shinobi(params)
        case "folder":
            return _folder(params)
        case "parquet":
            return _parquet(params)
        case "hub":
            return _hub(params)


def _shinobi(params: Ingest) -> Source:
    numbers = range(params.num_drawings)
    entries = (Entry(name=f"shinobi {i}", picture=Drawing(index=i, seed=params.seed)) for i in numbers)
    return Source(num_entries=params.num_drawings, entries=entries)


# --- folder ---


def _folder(params: Ingest) -> Source:
    root = Path(params.path)
    if not root.is_dir():
        raise StageError(f"ingest.path: {params.path!r} is not a folder; name one that holds captioned pictures")
    tables = [root / name for name in ("metadata.jsonl", "metadata.csv") if (root / name).is_file()]
    outside = [table for table in tables if isinstance(_located(root, table.name, name=table.name), Reject)]
    if outside:
        raise StageError(f"ingest.path: {outside[0]} leads out of {params.path!r}; put a copy of the file there")
    if len(tables) > 1:
        raise StageError(f"ingest.path: {params.path!r} holds both metadata.jsonl and metadata.csv; keep one")
    entries = _listed(root, tables[0], params) if tables else _all_beside(root, params)
    return Source(num_entries=len(entries), entries=entries)


def _all_beside(root: Path, params: Ingest) -> list[Entry | Reject]:
    """The pictures with the texts beside them, then the linked folders that lead elsewhere: nobody walks into those."""
    pictures, links = _walked(root)
    entries = [_beside(root, name) for name in pictures]
    if not any(isinstance(entry, Entry) for entry in entries):
        raise StageError(
            f"ingest.path: {params.path!r} has no captioned pictures; it needs metadata.jsonl or metadata.csv with the "
            f"columns file_name and {params.caption_column}, or a text beside each picture (0001.png, 0001.txt)"
        )
    located = [_located(root, name, name=name) for name in links]
    return entries + [each for each in located if isinstance(each, Reject) and each.reason == "path_escape"]


def _walked(root: Path) -> tuple[list[str], list[str]]:
    """The pictures (by their endings) and the linked folders in the folder and its subfolders, hidden ones left out."""
    suffixes = picture_suffixes()
    pictures, links = [], []
    for walked, folder_names, file_names in os.walk(root):
        folder = Path(walked).relative_to(root)
        folder_names[:] = [name for name in folder_names if not name.startswith(".")]
        seen = [name for name in file_names if not name.startswith(".")]
        links += [(folder / name).as_posix() for name in folder_names if (Path(walked) / name).is_symlink()]
        pictures += [(folder / name).as_posix() for name in seen if Path(name).suffix.lower() in suffixes]
    return sorted(pictures), sorted(links)


def _beside(root: Path, name: str) -> Entry | Reject:
    """The picture with the caption from the text file beside it."""
    located = _located(root, name, name=name)
    if isinstance(located, Reject):
        return located
    caption_name = str(Path(name).with_suffix(".txt"))
    text = _located(root, caption_name, name=name)
    if isinstance(text, Reject):
        lost = text.reason == "missing_file"
        return Reject(name=name, reason="no_caption", detail=f"no {caption_name} beside it") if lost else text
    try:
        return Entry(name=name, picture=located, caption=text.read_text("utf-8-sig"))
    except (UnicodeDecodeError, OSError) as error:
        return Reject(name=name, reason="no_caption", detail=f"{caption_name}: {error}")


def _listed(root: Path, table: Path, params: Ingest) -> list[Entry | Reject]:
    """The table's rows, then the pictures that no row names."""
    rows = list(_csv_rows(table) if table.suffix == ".csv" else _json_rows(table))
    read = [row for row in rows if not isinstance(row, Reject)]
    for column, key in (("file_name", "ingest.path"), (params.caption_column, "ingest.caption_column")):
        columns = sorted({str(name) for row in read for name in row})
        if column not in columns:
            raise StageError(f"{key}: {table} has no column {column!r}; it has {', '.join(columns) or 'none'}")
    entries = [row if isinstance(row, Reject) else _row_entry(root, table, row, params) for row in rows]
    named = {Path(row["file_name"]).as_posix() for row in read if isinstance(row.get("file_name"), str)}
    unlisted = [name for name in _walked(root)[0] if name not in named]
    detail = f"no row of {table.name} names it"
    return entries + [Reject(name=name, reason="no_caption", detail=detail) for name in unlisted]


def _json_rows(table: Path) -> Iterator[dict[str, Any] | Reject]:
    for number, line in enumerate(_text(table).split("\n"), start=1):
        if not line.strip():
            continue
        name = f"{table.name}:{number}"
        try:
            row = json.loads(line)
        except (ValueError, RecursionError) as error:
            yield Reject(name=name, reason="bad_row", detail=f"not JSON: {error}")
            continue
        yield row if isinstance(row, dict) else Reject(name=name, reason="bad_row", detail="not a JSON object")


def _csv_rows(table: Path) -> Iterator[dict[str, Any]]:
    try:
        yield from csv.DictReader(StringIO(_text(table), newline=""), strict=True)
    except csv.Error as error:
        raise StageError(f"ingest.path: {table} is not CSV: {error}") from error


def _text(table: Path) -> str:
    try:
        return table.read_text("utf-8-sig")
    except UnicodeDecodeError as error:
        raise StageError(f"ingest.path: {table} is not UTF-8 text: {error}") from error


def _row_entry(root: Path, table: Path, row: Mapping[str, Any], params: Ingest) -> Entry | Reject:
    file_name = row.get("file_name")
    if not isinstance(file_name, str) or not file_name:
        return Reject(name=table.name, reason="bad_row", detail=f"no file_name in {_shortened(row)}")
    located = _located(root, file_name, name=file_name)
    if isinstance(located, Reject):
        return located
    attributes = _attributes(row, without=("file_name", params.caption_column))
    return Entry(name=file_name, picture=located, caption=row.get(params.caption_column), attributes=attributes)


def _shortened(row: Mapping[str, Any]) -> str:
    text = repr(dict(row))
    return text if len(text) <= 120 else text[:117] + "..."


# --- parquet and hub ---


def _parquet(params: Ingest) -> Source:
    root = Path(params.path)
    files = [root] if root.is_file() else sorted(root.rglob("*.parquet"))
    if not files:
        missing = "holds no .parquet file" if root.is_dir() else "is no file or folder"
        raise StageError(f"ingest.path: {params.path!r} {missing}")
    tables = [_parquet_table(file, params) for file in files]
    rows = (
        (f"{file.name}:{number}", file.parent, row)
        for file, table in zip(files, tables, strict=True)
        for number, row in enumerate(_parquet_rows(file, table))
    )
    num_entries = sum(table.metadata.num_rows for table in tables)
    return Source(
        num_entries=num_entries, entries=(_record(name, row, params, roots=(root,)) for name, root, row in rows)
    )


def _parquet_table(file: Path, params: Ingest) -> pq.ParquetFile:
    try:
        table = pq.ParquetFile(file)
    except (OSError, pa.ArrowException) as error:
        raise StageError(f"ingest.path: {file} is not a parquet file: {error}") from error
    _check_columns(str(file), table.schema_arrow.names, params)
    return table


def _parquet_rows(file: Path, table: pq.ParquetFile) -> Iterator[dict[str, Any]]:
    try:
        for batch in table.iter_batches(batch_size=_ROWS_AT_ONCE):
            yield from batch.to_pylist()
    except (OSError, pa.ArrowException) as error:
        raise StageError(f"ingest.path: {file} is damaged: {error}") from error


def _hub(params: Ingest) -> Source:
    """All splits of a hub data set at its pinned revision; data sets that need a script of their own are refused."""
    from datasets import Dataset, DatasetDict, config, load_dataset  # takes seconds, for this source only
    from datasets import Image as ImageFeature
    from huggingface_hub.constants import HF_HUB_CACHE

    try:
        splits: DatasetDict = load_dataset(params.hub_dataset, revision=params.revision)
    except Exception as error:  # hub clients raise nearly anything
        raise StageError(
            f"ingest.hub_dataset: {params.hub_dataset!r} at ingest.revision {params.revision!r} cannot be loaded: "
            f"{type(error).__name__}: {error}"
        ) from error
    undecoded: dict[str, Dataset] = {}
    for split, rows in splits.items():
        _check_columns(f"{params.hub_dataset} ({split})", rows.column_names, params)
        undecoded[str(split)] = rows.cast_column(params.image_column, ImageFeature(decode=False))
    roots = (Path(config.HF_DATASETS_CACHE), Path(HF_HUB_CACHE))
    named = ((f"{split}:{i}", row) for split, rows in undecoded.items() for i, row in enumerate(rows))
    num_entries = sum(len(rows) for rows in undecoded.values())
    return Source(num_entries=num_entries, entries=(_record(name, row, params, roots=roots) for name, row in named))


def _check_columns(where: str, columns: list[str], params: Ingest) -> None:
    for key, column in (("image_column", params.image_column), ("caption_column", params.caption_column)):
        if column not in columns:
            raise StageError(f"ingest.{key}: {where} has no column {column!r}; it has {', '.join(columns)}")


def _record(name: str, row: Mapping[str, Any], params: Ingest, *, roots: tuple[Path, ...]) -> Entry | Reject:
    """A row whose picture is `{bytes, path}`, as the datasets library writes it, or bytes alone."""
    image = row[params.image_column]
    content, path = (image.get("bytes"), image.get("path")) if isinstance(image, dict) else (image, None)
    attributes = _attributes(row, without=(params.image_column, params.caption_column))
    entry = partial(Entry, name=name, caption=row[params.caption_column], attributes=attributes)
    if isinstance(content, bytes) and content:
        return entry(picture=content)
    if not isinstance(path, str) or not path:
        return Reject(name=name, reason="missing_file", detail=f"{params.image_column} holds neither bytes nor a path")
    located = [_located(root, path, name=name) for root in roots]
    found = next((each for each in located if isinstance(each, Path)), None)
    return entry(picture=found) if found else next(each for each in located if isinstance(each, Reject))


# --- all ---


def _located(root: Path, file_name: str, *, name: str) -> Path | Reject:
    """The file of that name, where it lies inside `root` after all links are followed."""
    try:
        path = (root / file_name).resolve()
        if not path.is_relative_to(root.resolve()):
            return Reject(name=name, reason="path_escape", detail=f"{file_name} leads out of {root}")
        if path.is_file():
            return path
        kind = "is no regular file" if path.exists() else "does not exist"
    except (OSError, ValueError, RuntimeError) as error:  # names that no file system takes, links in a circle
        kind = f"is not found: {error}"
    return Reject(name=name, reason="missing_file", detail=f"{file_name} {kind}")


def _attributes(row: Mapping[str, Any], *, without: tuple[str, ...]) -> dict[str, str]:
    """The row's other plain values, as text."""
    plain = {column: row[column] for column in row if isinstance(column, str) and column not in without}
    return {
        column: value if isinstance(value, str) else json.dumps(value)
        for column, value in plain.items()
        if isinstance(value, (str, int, float))
    }
