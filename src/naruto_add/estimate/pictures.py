"""The size of the data set, known or assumed."""

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from naruto_add.config.schema import Ingest

ASSUMED_PICTURES = 1221
"""The size of the Naruto data set of profile sd15; assumed if `ingest` has not run yet."""


def num_pictures_of(dataset: Path, ingest: "Ingest") -> int:
    """The pictures of the data set, or before `ingest` has run `ingest.num_drawings` or `ASSUMED_PICTURES`."""
    table = dataset / "metadata.jsonl"
    if table.exists():
        with table.open(encoding="utf-8") as rows:
            return sum(1 for _ in rows)
    return ingest.num_drawings if ingest.source == "shinobi" else ASSUMED_PICTURES
