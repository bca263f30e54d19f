"""The disk that the pipeline's files need, in the stage at which they need most, and whether that is free here."""

import shutil
from collections.abc import Mapping, Sequence
from configparser import ConfigParser
from dataclasses import dataclass
from itertools import takewhile
from pathlib import Path

import torch

from naruto_add.config import paths
from naruto_add.config.schema import Params
from naruto_add.estimate.counts import evaluate_counts
from naruto_add.estimate.downloads import download_bytes
from naruto_add.estimate.fake import on_meta
from naruto_add.estimate.networks import Shapes, new_text_encoder, new_unet, new_vae, shapes_of
from naruto_add.estimate.pictures import num_pictures_of
from naruto_add.estimate.task import num_student_weights, num_weights
from naruto_add.runtime.checkpoints import local_cache_path
from naruto_add.runtime.errors import StageError
from naruto_add.runtime.units import size_text
from naruto_add.training.checkpoint import bytes_to_train

FP32, FP16, INT8 = 4, 2, 1
UINT8_RGB = 3
BASE64 = 4 / 3
"""Characters for each byte."""
PNG_BYTES_PER_PIXEL = 1.5
"""The approximate size of photographs and drawings; a picture without compression has 3 bytes per pixel."""

DISK_REMEDY = (
    "free some disk (`dvc gc --workspace` deletes results of earlier runs), or let DVC link results, not copy "
    'them: dvc config --local cache.type "reflink,hardlink,copy"'
)


@dataclass(frozen=True)
class Disk:
    """The bytes of each kind of file while a stage needs the most disk."""

    stage: str
    files: Mapping[str, int]

    @property
    def total(self) -> int:
        """All bytes."""
        return sum(self.files.values())


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


def largest_disk(params: Params, shapes: Shapes, *, num_pictures: int, is_linked: bool) -> Disk:
    """The stage with the largest sum; see `disk_by_stage`."""
    stages = disk_by_stage(params, shapes, num_pictures=num_pictures, is_linked=is_linked)
    return max(stages, key=lambda disk: disk.total)


def disk_by_stage(params: Params, shapes: Shapes, *, num_pictures: int, is_linked: bool) -> list[Disk]:
    """The files of a first run in the stages that write much. Earlier runs with other parameters need disk besides.

    With `ingest.aspect_buckets`, data set and pool are counted as if no picture were square, which doubles them. DVC
    stores a copy of every result, unless the file system links it (`is_linked`). A copy in `.checkpoints/` keeps the
    pool for other experiments. A training's checkpoint is deleted when the training is complete.
    """
    sizes = _sizes(params, shapes, num_pictures)
    stages = {
        "student": (["data set", "teacher"], ["pool"]),
        "add": (["data set", "teacher", "pool", "student before ADD"], []),
        "export": (["data set", "teacher", "pool", "student before ADD", "distilled student", "export"], []),
    }
    return [
        Disk(stage, _files(stage, sizes, stored=stored, new=new, is_linked=is_linked))
        for stage, (stored, new) in stages.items()
    ]


def still_to_write(disk: Disk, existing: Mapping[str, int]) -> int:
    """The bytes of the files that are not complete yet; `existing` is what is there of each kind."""
    downloaded = ("base model", "other networks")
    return sum(max(0, size - existing.get(name, 0)) for name, size in disk.files.items() if name not in downloaded)


def _files(
    stage: str, sizes: Mapping[str, int], *, stored: Sequence[str], new: Sequence[str], is_linked: bool
) -> dict[str, int]:
    """The files of a stage: results that DVC has `stored`, `new` ones that it has not, checkpoints and caches."""
    results = {name: sizes[name] for name in (*stored, *new)}
    caches = ["pool kept for experiments", "latents of pictures"]
    caches += ["drawn pictures"] if stage == "export" else []
    return {
        "base model": sizes["base model"],
        "other networks": sizes["other networks"],
        **results,
        "DVC's copies of results": 0 if is_linked else sum(sizes[name] for name in stored),
        **({} if stage == "export" else {"checkpoints": sizes["checkpoints"]}),
        **{name: sizes[name] for name in caches},
    }


def _sizes(params: Params, shapes: Shapes, num_pictures: int) -> dict[str, int]:
    """The bytes of every kind of file, once."""
    with on_meta():
        num_teacher = num_weights(new_unet(shapes, torch.float32))
        num_student = num_student_weights(shapes, params.student.architecture)
        text_encoder, vae = new_text_encoder(shapes, torch.float32), new_vae(shapes)
        others = num_weights(text_encoder, vae)
        drawing = num_student + num_weights(text_encoder, vae.decoder)
    latents = shapes.num_channels * shapes.latent_side**2 * FP32
    num_versions = 1 + params.ingest.aspect_buckets
    pool = num_versions * params.student.pool_size * latents * (params.sampling.student_steps + 1)
    further = len(params.add.resolutions_px) * params.add.resolution_pool_size * latents * params.sampling.student_steps
    num_drawn = evaluate_counts(params, round(num_pictures * params.ingest.test_fraction)).pictures
    return {
        "base model": (num_teacher + others) * (FP16 if params.base.variant == "fp16" else FP32),
        "other networks": download_bytes(params),
        "data set": int(num_versions * num_pictures * params.base.resolution_px**2 * PNG_BYTES_PER_PIXEL),
        "teacher": (num_teacher + others) * FP32,
        "pool": pool,
        "student before ADD": num_student * FP32,
        "distilled student": num_student * FP32,
        "export": sum(
            _format_bytes(name, params, teacher=num_teacher + others, student=num_student + others, drawing=drawing)
            for name in {"diffusers", *params.export.formats}
        ),
        "checkpoints": bytes_to_train(num_student),
        "pool kept for experiments": pool + further,
        "latents of pictures": num_pictures * latents * (1 + params.teacher.flip),
        "drawn pictures": num_drawn * params.base.resolution_px**2 * UINT8_RGB,
    }


def dvc_links_files(root: Path) -> bool:
    """Whether DVC's configuration in the folder `root` lets it link files (`cache.type`) before it copies them.

    Reflinks alone do not count: most file systems have none, and then DVC copies.
    """
    config = ConfigParser(interpolation=None, strict=False)
    config.read([root / ".dvc/config", root / ".dvc/config.local"], encoding="utf-8")
    kinds = [kind.strip(" \"'") for kind in config.get("cache", "type", fallback="reflink,copy").split(",")]
    return not {"hardlink", "symlink"}.isdisjoint(takewhile(lambda kind: kind != "copy", kinds))


def _format_bytes(name: str, params: Params, *, teacher: int, student: int, drawing: int) -> int:
    """The bytes of a format of `export.formats`, given the weights of both models and of those parts that ONNX has.

    LoRA, tiny decoder and what the demo page has besides weights are small, and not counted.
    """
    match name:
        case "diffusers":
            return student * (FP16 if params.export.precision == "fp16" else FP32)
        case "single_file":
            num_student_files = 2 if params.student.architecture == "bk_tiny" else 1
            return (teacher + num_student_files * student) * FP16
        case "onnx":
            return drawing * FP32
        case "onnx_int8":
            return drawing * INT8
        case "demo":
            return round(drawing * FP16 * BASE64)
    return 0


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
