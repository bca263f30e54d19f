"""The data set that `ingest` writes, read one split at a time."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from naruto_add.data.entries import Split
from naruto_add.data.prompts import fill_template
from naruto_add.runtime.errors import StageError

MIN_PICTURES: dict[Split, int] = {"test": 4, "validation": 1, "train": 5}
"""The smallest splits that the later stages can use; `evaluate` halves the test pictures, and 2 make a distribution."""
FURTHER_CAPTIONS = "further_captions"
"""The column of captions after the first; missing if no picture of the data set has any."""
BUCKET_FILE = "bucket_file"
"""The column of the picture's file in its aspect bucket, empty if the square is its bucket; missing without buckets."""
_OWN_COLUMNS = ("file_name", "text", "split", FURTHER_CAPTIONS, BUCKET_FILE)


@dataclass(frozen=True, kw_only=True)
class Example:
    """A picture with at least one caption; training draws one of them, and everything else uses the first.

    The picture at `image_path` is a square of the base model's size. `bucket_path` is the picture in its aspect
    bucket, or None if that is the square. `prompts` are the captions in the prompt template; `attributes` are the other
    columns of its row.
    """

    image_path: Path
    captions: tuple[str, ...]
    prompts: tuple[str, ...]
    attributes: dict[str, str]
    bucket_path: Path | None = None

    @property
    def caption(self) -> str:
        """The first caption."""
        return self.captions[0]

    @property
    def prompt(self) -> str:
        """The prompt of the first caption."""
        return self.prompts[0]


def load_split(dataset_dir: Path, split: Split, *, prompt_template: str) -> list[Example]:
    """The examples of one split, in the order of metadata.jsonl. Raises StageError if the split is empty
    or the file is damaged.
    """
    path = dataset_dir / "metadata.jsonl"
    try:
        rows = [json.loads(line) for line in path.read_text("utf-8").split("\n") if line]
        examples = [_example(dataset_dir, row, prompt_template) for row in rows if row["split"] == split]
    except (ValueError, KeyError, TypeError) as error:
        raise StageError(
            f"{path}: this file is damaged ({type(error).__name__}: {error}); delete {dataset_dir} and run "
            "`dvc repro`, which makes it again"
        ) from error
    if not examples:
        raise StageError(f"{path}: no {split} pictures; give `ingest` more pictures")
    return examples


def _example(dataset_dir: Path, row: dict[str, Any], prompt_template: str) -> Example:
    captions = (row["text"], *row.get(FURTHER_CAPTIONS, ()))
    return Example(
        image_path=dataset_dir / row["file_name"],
        bucket_path=dataset_dir / row[BUCKET_FILE] if row.get(BUCKET_FILE) else None,
        captions=captions,
        prompts=tuple(fill_template(prompt_template, caption) for caption in captions),
        attributes={column: value for column, value in row.items() if column not in _OWN_COLUMNS},
    )
