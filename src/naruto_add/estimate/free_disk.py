"""Whether the disk has room for what the pipeline still has to write."""

import shutil
from collections.abc import Mapping
from pathlib import Path

from naruto_add.config import paths
from naruto_add.config.schema import Params
from naruto_add.estimate.disk import DISK_REMEDY, Disk, disk_by_stage, dvc_links_files
from naruto_add.estimate.networks import shapes_of
from naruto_add.estimate.pictures import num_pictures_of
from naruto_add.estimate.report import size_text
from naruto_add.runtime.checkpoints import local_cache_path
from naruto_add.runtime.errors import StageError


def check_disk(params: Params) -> None:
    """Raises StageError if a stage needs more disk than is free here and than what is there already takes.

    Base model and other networks are not counted: they are downloaded before. A result of an earlier run counts as the
    file that replaces it, and so do its copies, up to the size of the results that are here. Checkpoints and caches of
    other parameters count too, so that the check may pass although they stay.
    """
    root = Path.cwd()
    num_pictures = num_pictures_of(paths.DATASET, params.ingest)
    shapes, is_linked = shapes_of(params.base), dvc_links_files(root)
    existing, free = _existing(root), shutil.disk_usage(root).free
    disks = disk_by_stage(params, shapes, num_pictures=num_pictures, is_linked=is_linked)
    disk = max(disks, key=lambda each: still_to_write(each, existing))
    missing = still_to_write(disk, existing)
    if missing > free:
        files = ", ".join(f"{name} {size_text(size)}" for name, size in disk.files.items() if size)
        raise StageError(
            f"disk: the stage {disk.stage} needs {size_text(disk.total)} ({files}), of which {size_text(missing)} are "
            f"not here yet, but {size_text(free)} are free in {root}; {DISK_REMEDY}"
        )


def still_to_write(disk: Disk, existing: Mapping[str, int]) -> int:
    """The bytes of the files that are not complete yet; `existing` is what is there of each kind."""
    downloaded = ("base model", "other networks")
    return sum(max(0, size - existing.get(name, 0)) for name, size in disk.files.items() if name not in downloaded)


def _existing(root: Path) -> dict[str, int]:
    results = {
        "data set": _size(paths.DATASET),
        "teacher": _size(paths.TEACHER),
        "pool": _size(paths.POOL),
        "student before ADD": _size(paths.STUDENT),
        "distilled student": _size(paths.DISTILLED),
        "export": _size(paths.EXPORT),
    }
    return {
        **results,
        "DVC's copies of results": min(_size(root / ".dvc/cache"), sum(results.values())),
        "checkpoints": max(_size(local_cache_path(stage), "*.pt") for stage in ("teacher", "student", "add")),
        "pool kept for experiments": min(_size(local_cache_path("pool")), results["pool"]),
        "latents of pictures": _size(local_cache_path("teacher"), "*.safetensors"),
        "drawn pictures": _size(local_cache_path("evaluate")),
    }


def _size(path: Path, pattern: str = "*") -> int:
    """The bytes of a file, or of the files in a folder and below it; 0 if there is none."""
    files = [path] if path.is_file() else path.rglob(pattern)
    return sum(file.stat().st_size for file in files if file.is_file())
