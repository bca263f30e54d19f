"""Rows that contain their pictures: parquet files, and data sets of the Hugging Face hub."""

from collections.abc import Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from naruto_add.config.schema import Ingest
from naruto_add.data.entries import Entry, Reject, Source, Split, given_split, list_folder, locate, plain_attributes
from naruto_add.runtime.errors import StageError, shown

_ROWS_AT_ONCE = 64
_Record = dict[str, Any]


# --- parquet ---


def open_parquet(params: Ingest) -> Source:
    """The rows of a parquet file, or of all parquet files in a folder. Raises StageError if one cannot be opened."""
    root = Path(params.path)
    files, unreadable = _parquet_files(root)
    if not files:
        problem = "holds no .parquet file" if root.is_dir() else "is neither a file nor a folder"
        raise StageError(f"ingest.path: {params.path!r} {problem}; name a parquet file or a folder of them")
    tables = {name: _open_table(path, params) for name, path in files.items()}
    num_rows = sum(table.metadata.num_rows for table in tables.values())
    return Source(
        num_entries=num_rows + len(unreadable), entries=_parquet_entries(files, tables, unreadable, params=params)
    )


def _parquet_files(root: Path) -> tuple[dict[str, Path], list[Reject]]:
    """The files by their names in rejects, and rejects for what is no file of the folder and what cannot be listed."""
    if not root.is_dir():
        return ({root.name: root} if root.is_file() else {}), []
    listing = list_folder(root)
    found = {name: locate(root, name, name=name) for name in listing.files if name.lower().endswith(".parquet")}
    files = {name: path for name, path in found.items() if isinstance(path, Path)}
    return files, [*(each for each in found.values() if isinstance(each, Reject)), *listing.unreadable]


def _open_table(file: Path, params: Ingest) -> pq.ParquetFile:
    try:
        table = pq.ParquetFile(file)
    except (OSError, pa.ArrowException) as error:
        raise StageError(
            f"ingest.path: {shown(file)} cannot be read as a parquet file ({error}); replace or remove it"
        ) from error
    _check_columns(str(file), table.schema_arrow.names, params)
    return table


def _parquet_entries(
    files: Mapping[str, Path], tables: Mapping[str, pq.ParquetFile], unreadable: list[Reject], *, params: Ingest
) -> Iterator[Entry | Reject]:
    for file, table in tables.items():
        for number, row in enumerate(_parquet_rows(table, (params.image_column, params.caption_column))):
            name = f"{file}:{number}"
            if isinstance(row, str):
                yield Reject(name=name, reason="bad_row", detail=row)
            else:
                yield _record_entry(name, row, params, roots=(files[file].parent,))
    yield from unreadable


def _parquet_rows(table: pq.ParquetFile, named: tuple[str, str]) -> Iterator[_Record | str]:
    """Each row, or why it cannot be read. Damage affects the rest of its row group.

    Of the columns that are not `named`, only those that can be attributes are read.
    """
    columns = [field.name for field in table.schema_arrow if field.name in named or _is_plain(field.type)]
    for group in range(table.num_row_groups):
        num_left = table.metadata.row_group(group).num_rows
        try:
            for batch in table.iter_batches(batch_size=_ROWS_AT_ONCE, row_groups=[group], columns=columns):
                for index in range(batch.num_rows):
                    yield _parquet_row(batch, index, named)
                    num_left -= 1
        except (OSError, pa.ArrowException) as error:
            yield from [f"row group {group} is damaged: {error}"] * num_left


def _is_plain(kind: pa.DataType) -> bool:
    """Whether Python's strings, numbers and booleans hold the values."""
    kind = kind.value_type if pa.types.is_dictionary(kind) else kind
    tests = (
        pa.types.is_string,
        pa.types.is_large_string,
        pa.types.is_integer,
        pa.types.is_floating,
        pa.types.is_boolean,
    )
    return any(test(kind) for test in tests)


def _parquet_row(batch: pa.RecordBatch, index: int, named: tuple[str, str]) -> _Record | str:
    """The row without other values that Python cannot hold, or why a `named` one cannot be read."""
    row = {}
    for name, column in zip(batch.schema.names, batch.columns, strict=True):
        try:
            row[name] = column[index].as_py()
        except UnicodeDecodeError as error:  # parquet does not check its strings
            if name in named:
                return f"not UTF-8: {error}"
        except (ArithmeticError, ValueError) as error:  # times beyond Python's years
            if name in named:
                return f"{name} has a value that cannot be read: {error}"
    return row


# --- hub ---


def open_hub(params: Ingest) -> Source:
    """All splits of a hub data set at its pinned revision. Raises StageError if it cannot be loaded."""
    from datasets import Dataset, DatasetDict, config, load_dataset  # takes seconds; only this source needs it
    from datasets import Image as ImageFeature
    from huggingface_hub.constants import HF_HUB_CACHE

    try:
        splits: DatasetDict = load_dataset(params.hub_dataset, revision=params.revision)
    except Exception as error:  # hub clients raise nearly any error
        raise StageError(
            f"ingest.hub_dataset: {params.hub_dataset!r} at ingest.revision {params.revision!r} cannot be loaded "
            f"({type(error).__name__}: {error}); check the name, the revision and the network"
        ) from error
    undecoded: dict[str, Dataset] = {}
    for split, rows in splits.items():
        _check_columns(f"{params.hub_dataset} ({split})", rows.column_names, params)
        undecoded[str(split)] = rows.cast_column(params.image_column, ImageFeature(decode=False))
    roots = (Path(config.HF_DATASETS_CACHE), Path(HF_HUB_CACHE))
    numbered = ((split, i, row) for split, rows in undecoded.items() for i, row in enumerate(rows))
    num_entries = sum(len(rows) for rows in undecoded.values())
    entries = (
        _record_entry(f"{split}:{i}", row, params, roots=roots, split=given_split(split)) for split, i, row in numbered
    )
    return Source(num_entries=num_entries, entries=entries)


# --- both ---


def _check_columns(where: str, columns: list[str], params: Ingest) -> None:
    for key, column in (("image_column", params.image_column), ("caption_column", params.caption_column)):
        if column not in columns:
            names = ", ".join(map(shown, columns))
            raise StageError(f"ingest.{key}: {shown(where)} has no column {column!r}; its columns: {names}")
        if columns.count(column) > 1:
            raise StageError(f"ingest.{key}: {shown(where)} has two columns {column!r}; rename or remove one of them")


def _record_entry(
    name: str, row: Mapping[str, Any], params: Ingest, *, roots: tuple[Path, ...], split: Split | None = None
) -> Entry | Reject:
    """The entry of a row whose picture is `{bytes, path}`, as the datasets library writes it, plain bytes or a path."""
    image = row[params.image_column]
    content, path = (image.get("bytes"), image.get("path")) if isinstance(image, dict) else (image, image)
    attributes = plain_attributes(row, without=(params.image_column, params.caption_column))
    split = given_split(row.get("split")) or split
    try:
        captions = _text(row[params.caption_column])
    except UnicodeDecodeError as error:
        return Reject(name=name, reason="bad_row", detail=f"{params.caption_column} is not UTF-8: {error.reason}")
    entry = partial(Entry, name=name, captions=captions, attributes=attributes, split=split)
    if isinstance(content, bytes) and content:
        return entry(picture=content)
    if not isinstance(path, str) or not path:
        detail = f"{params.image_column} holds neither bytes nor a path"
        return Reject(name=name, reason="missing_file", detail=detail)
    found = [locate(root, path, name=name) for root in roots]
    picture = next((each for each in found if isinstance(each, Path)), None)
    return entry(picture=picture) if picture else next(each for each in found if isinstance(each, Reject))


def _text(value: object) -> object:
    """Captions that a writer stored without saying that they are text, as text. Raises UnicodeDecodeError."""
    if isinstance(value, list):
        return [_text(each) for each in value]
    return value.decode("utf-8") if isinstance(value, bytes) else value
