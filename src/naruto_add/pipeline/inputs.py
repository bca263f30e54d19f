"""Manifests of the base model: files that change if and only if the base model does.

DVC cannot watch `base.model` itself, which is any folder or a hub repository. Stages depend on the manifests instead.
"""

import json
from collections.abc import Mapping
from pathlib import Path

from naruto_add.config.schema import Base
from naruto_add.runtime.files import atomic_write_bytes, content_hash, write_json

PARTS = ("scheduler", "text_encoder", "tokenizer", "unet", "vae")
"""The folders of the pipeline that are loaded."""


def write_manifests(base: Base, *, manifest_path: Path, tokenizer_path: Path, cache_path: Path) -> None:
    """Write the manifests of the complete base model and of its tokenizer alone.

    For a folder, a manifest lists the relative names of the files and their hashes; for a hub repository, its name,
    revision and variant. Hashes are taken from `cache_path` for files whose size and modification time are unchanged.
    """
    folder = Path(base.model)
    if folder.is_dir():
        manifest = _hashes(folder, cache_path)
        tokenizer = {name: value for name, value in manifest.items() if name.startswith("tokenizer/")}
    else:
        tokenizer = {"model": base.model, "revision": base.revision}
        manifest = {**tokenizer, "variant": base.variant}
    write_json(manifest_path, manifest)
    write_json(tokenizer_path, tokenizer)


def _hashes(folder: Path, cache_path: Path) -> dict[str, str]:
    """The hash of each file that is loaded, by its name relative to the folder."""
    known = _read_cache(cache_path)
    files = [file for part in ("model_index.json", *PARTS) for file in _files(folder / part)]
    entries = {str(file.absolute()): _entry(file, known) for file in files}
    if entries.items() - known.items():
        kept = {name: entry for name, entry in known.items() if Path(name).exists()}
        atomic_write_bytes(cache_path, json.dumps({**kept, **entries}, indent=1).encode())
    return {file.relative_to(folder).as_posix(): entries[str(file.absolute())][-1] for file in files}


def _files(path: Path) -> list[Path]:
    if path.is_file():
        return [path]
    return sorted(item for item in path.rglob("*") if item.is_file())


def _entry(file: Path, known: Mapping[str, tuple[str, str]]) -> tuple[str, str]:
    """What identifies the file's state, and the hash of its content."""
    status = file.stat()
    state = f"{status.st_size} bytes, {status.st_mtime_ns} ns"
    before = known.get(str(file.absolute()))
    return before if before and before[0] == state else (state, content_hash(file))


def _read_cache(path: Path) -> dict[str, tuple[str, str]]:
    """The entries by absolute file name; none if the file is missing or damaged, since it only saves time."""
    try:
        return {name: (state, digest) for name, (state, digest) in json.loads(path.read_text(encoding="utf-8")).items()}
    except (OSError, ValueError, AttributeError, TypeError):
        return {}
