"""Free disk is checked before work that needs it starts."""

import shutil
from pathlib import Path

from naruto_add.runtime.errors import StageError

GB = 1e9
MARGIN_BYTES = 500_000_000
"""Left free for curves, grids and other programs."""


def require_free(folder: Path, num_bytes: int, *, purpose: str) -> None:
    """Raises StageError if the disk of `folder`, which need not exist yet, has less than `num_bytes` free."""
    existing = next(path for path in (folder, *folder.resolve().parents) if path.exists())
    free, needed = shutil.disk_usage(existing).free, num_bytes + MARGIN_BYTES
    if free < needed:
        raise StageError(
            f"{folder}: {purpose} need {needed / GB:.1f} GB, but {free / GB:.1f} GB are free; free some disk "
            "(`dvc gc --workspace` deletes results of earlier runs), then run again. `naruto-add estimate` lists what "
            "all stages need"
        )
