"""Rows that hold their own pictures: parquet files, and data sets of the Hugging Face hub."""

from collections.abc import Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from naruto_add.data.entries import Entry, Reject, Source, located, plain_attributes, walk
from naruto_add.params import Ingest
from naruto_add.runtime import StageError

_ROWS_AT_ONCE = 64
_Record = dict[str, Any]


# --- parquet ---


def open_parquet(params: Ingest) -> Source:
    """The rows of a parquet file, or of all in a folder. Raises StageError where one cannot be opened."""
    root = Path(params.path)
    names, unreadable = _parquet_files(root)
    if not names:
        missing = "holds no .parquet file" if root.is_dir() else "is no file or folder"
        raise StageError(f"ingest.path: {params.path!r} {missing}")
    tables = {name: _parquet_table(path, params) for name, path in names.items()}
    num_rows = sum(table.metadata.num_rows for table in tables.values())
    return Source(
        num_entries=num_rows + len(unreadable), entries=_parquet_entries(names, tables, unreadable, params=params)
    )


def _parquet_files(root: Path) -> tuple[dict[str, Path], list[Reject]]:
    """The files by what rejects call them, and the folders that may hold more."""
    if not root.is_dir():
        return ({root.name: root} if root.is_file() else {}), []
    walked = walk(root)
    return {name: root / name for name in walked.files if name.endswith(".parquet")}, walked.unreadable


def _parquet_table(file: Path, params: Ingest) -> pq.ParquetFile:
    try:
        table = pq.ParquetFile(file)
    except (OSError, pa.ArrowException) as error:
        raise StageError(f"ingest.path: {file} is not a parquet file: {error}") from error
    _check_columns(str(file), table.schema_arrow.names, params)
    return table


def _parquet_entries(
    files: Mapping[str, Path], tables: Mapping[str, pq.ParquetFile], unreadable: list[Reject], *, params: Ingest
) -> Iterator[Entry | Reject]:
    for file, table in tables.items():
        for number, row in enumerate(_parquet_rows(table)):
            name = f"{file}:{number}"
            if isinstance(row, str):
                yield Reject(name=name, reason="bad_row", detail=row)
            else:
                yield _record(name, row, params, roots=(files[file].parent,))
    yield from unreadable


def _parquet_rows(table: pq.ParquetFile) -> Iterator[_Record | str]:
    """All rows; for one that cannot be read, why. Damage takes the rest of its row group."""
    for group in range(table.num_row_groups):
        num_left = table.metadata.row_group(group).num_rows
        try:
            for batch in table.iter_batches(batch_size=_ROWS_AT_ONCE, row_groups=[group]):
                for index in range(batch.num_rows):
                    yield _one_row(batch, index)
                    num_left -= 1
        except (OSError, pa.ArrowException) as error:
            yield from [f"row group {group} is damaged: {error}"] * num_left


def _one_row(batch: pa.RecordBatch, index: int) -> _Record | str:
    try:
        return batch.slice(index, 1).to_pylist()[0]
    except UnicodeDecodeError as error:  # parquet does not check its texts
        return f"not UTF-8: {error}"


# --- hub ---


def open_hub(params: Ingest) -> Source:
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


# --- both ---


def _check_columns(where: str, columns: list[str], params: Ingest) -> None:
    for key, column in (("image_column", params.image_column), ("caption_column", params.caption_column)):
        if column not in columns:
            raise StageError(f"ingest.{key}: {where} has no column {column!r}; it has {', '.join(columns)}")


def _record(name: str, row: Mapping[str, Any], params: Ingest, *, roots: tuple[Path, ...]) -> Entry | Reject:
    """A row whose picture is `{bytes, path}`, as the datasets library writes it, or bytes alone."""
    image = row[params.image_column]
    content, path = (image.get("bytes"), image.get("path")) if isinstance(image, dict) else (image, None)
    attributes = plain_attributes(row, without=(params.image_column, params.caption_column))
    entry = partial(Entry, name=name, caption=row[params.caption_column], attributes=attributes)
    if isinstance(content, bytes) and content:
        return entry(picture=content)
    if not isinstance(path, str) or not path:
        return Reject(name=name, reason="missing_file", detail=f"{params.image_column} holds neither bytes nor a path")
    found = [located(root, path, name=name) for root in roots]
    picture = next((each for each in found if isinstance(each, Path)), None)
    return entry(picture=picture) if picture else next(each for each in found if isinstance(each, Reject))
