"""The data set that `ingest` writes, read one split at a time."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from naruto_add.data.prompts import fill_template
from naruto_add.runtime.errors import StageError

Split = Literal["train", "validation", "test"]


@dataclass(frozen=True, kw_only=True)
class Example:
    """A captioned picture. `prompt` is the caption in the prompt template; `attributes` are its row's other columns."""

    image_path: Path
    caption: str
    prompt: str
    attributes: dict[str, str]


def load_split(dataset_dir: Path, split: Split, *, prompt_template: str) -> list[Example]:
    """The examples of one split, in the order of metadata.jsonl. Raises StageError if the split is empty."""
    lines = (dataset_dir / "metadata.jsonl").read_text("utf-8").split("\n")
    rows = [json.loads(line) for line in lines if line]
    examples = [_example(dataset_dir, row, prompt_template) for row in rows if row["split"] == split]
    if not examples:
        raise StageError(f"{dataset_dir / 'metadata.jsonl'}: no {split} pictures; give `ingest` more pictures")
    return examples


def _example(dataset_dir: Path, row: dict[str, str], prompt_template: str) -> Example:
    return Example(
        image_path=dataset_dir / row["file_name"],
        caption=row["text"],
        prompt=fill_template(prompt_template, row["text"]),
        attributes={column: value for column, value in row.items() if column not in ("file_name", "text", "split")},
    )
