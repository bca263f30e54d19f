"""The data set that `ingest` leaves: examples by split."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from naruto_add.runtime import StageError

Split = Literal["train", "validation", "test"]


@dataclass(frozen=True)
class Example:
    """One captioned picture; `attributes` holds every further column of its row."""

    image_path: Path
    caption: str
    attributes: dict[str, str]


def load_split(dataset_dir: Path, split: Split) -> list[Example]:
    """The examples of one split, in the file's order. Raises StageError where there are none."""
    lines = (dataset_dir / "metadata.jsonl").read_text("utf-8").split("\n")
    rows = [json.loads(line) for line in lines if line]
    examples = [_example(dataset_dir, row) for row in rows if row["split"] == split]
    if not examples:
        raise StageError(f"{dataset_dir}: holds no {split} pictures; give ingest more of them")
    return examples


def _example(dataset_dir: Path, row: dict[str, str]) -> Example:
    attributes = {name: value for name, value in row.items() if name not in ("file_name", "text", "split")}
    return Example(image_path=dataset_dir / row["file_name"], caption=row["text"], attributes=attributes)
