"""Drawn pictures as PNG files, with the settings that they were drawn with, and a grid of them."""

import re
import time
import unicodedata
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from PIL import Image
from PIL.PngImagePlugin import PngInfo

from naruto_add.generate.model import Model
from naruto_add.imaging.grid import CELL_PX, GridColumn, GridRow, make_grid
from naruto_add.runtime.errors import StageError
from naruto_add.runtime.files import new_file

MAX_NAME_LENGTH = 60


def write_pictures(
    model: Model, prompts: Sequence[str], *, seeds: Sequence[int], out_dir: Path, grid: bool
) -> Iterator[tuple[Path, float]]:
    """Draw and write each picture, and with `grid`, one grid of all of them; yield its path and duration in seconds.

    A file is written completely or not at all, and never replaces another. Raises StageError if it cannot be written.
    """
    rows = []
    for prompt in prompts:
        images = []
        for seed in seeds:
            start = time.perf_counter()
            image = model.draw(prompt, seed=seed)
            path = unused_path(out_dir, f"{slug(prompt)}-seed{seed}")
            _save_png(image, path, {"prompt": prompt, "seed": str(seed), **_metadata(model)})
            yield path, time.perf_counter() - start
            images.append(image)
        rows.append(GridRow(prompt, images))
    if grid:
        start = time.perf_counter()
        path = unused_path(out_dir, f"{slug(prompts[0])}-grid")
        _write_grid(model, rows, seeds, path)
        yield path, time.perf_counter() - start


def unused_path(folder: Path, name: str) -> Path:
    """`name.png` in the folder, or if that exists, the first of `name-2.png`, `name-3.png`, ... that does not."""
    path, number = folder / f"{name}.png", 1
    while path.exists():
        number += 1
        path = folder / f"{name}-{number}.png"
    return path


def slug(text: str) -> str:
    """The text as part of a file name: lower-case ASCII letters and digits, separated by hyphens."""
    ascii_text = unicodedata.normalize("NFKD", text).encode("ascii", "ignore").decode().lower()
    return re.sub(r"[^a-z0-9]+", "-", ascii_text).strip("-")[:MAX_NAME_LENGTH].strip("-") or "picture"


def _metadata(model: Model) -> dict[str, str]:
    metadata = {
        "model": model.name,
        "steps": str(model.num_inference_steps),
        "prompt_template": model.prompt_template,
    }
    return metadata if model.guidance_scale is None else {**metadata, "guidance_scale": f"{model.guidance_scale:g}"}


def _save_png(image: Image.Image, path: Path, metadata: Mapping[str, str]) -> None:
    info = PngInfo()
    for key, value in metadata.items():
        info.add_itxt(key, value)
    try:
        with new_file(path) as partial:
            image.save(partial, pnginfo=info)
    except OSError as error:
        raise StageError(f"--out: cannot write {path}: {error.strerror or error}; choose another folder") from error


def _write_grid(model: Model, rows: Sequence[GridRow], seeds: Sequence[int], path: Path) -> None:
    """One row for each prompt, one column for each seed."""
    metadata: dict[str, Any] = {"prompts": [row.caption for row in rows], "seeds": list(seeds), **_metadata(model)}
    note = f"{Path(model.name).name}, {model.num_inference_steps} steps"
    make_grid(
        rows,
        columns=[GridColumn(f"seed {seed}", note) for seed in seeds],
        cell_px=max(CELL_PX, rows[0].images[0].width),
        path=path,
        metadata=metadata,
    )
