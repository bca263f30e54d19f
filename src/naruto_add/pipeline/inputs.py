"""Manifests of the base model and of the pictures: files that change if and only if what they describe does.

DVC cannot watch `base.model`, which is any folder or a hub repository. It could watch `ingest.path`, but it would wait
for a pipe forever and stop at a broken link. Stages depend on the manifests instead.
"""

from pathlib import Path

from naruto_add.config.schema import Base
from naruto_add.pipeline.hashes import cached_hashes
from naruto_add.runtime.errors import StageError
from naruto_add.runtime.files import write_json

PARTS = ("scheduler", "text_encoder", "tokenizer", "unet", "vae")
"""The folders of the pipeline that are loaded."""
ADAPTER_CONFIG = "adapter_config.json"
"""peft's settings of a LoRA, in the same folder."""


def write_manifests(
    base: Base, *, lora_start: str, manifest_path: Path, tokenizer_path: Path, cache_path: Path
) -> None:
    """Write the manifests of the complete base model, with the LoRA that training starts from, and of its tokenizer.

    For a folder or file, a manifest lists the relative names of the files and their hashes; for a hub repository, its
    name, revision and variant. Hashes are taken from `cache_path` for files whose size and modification time are
    unchanged.
    """
    folder = Path(base.model)
    if folder.is_dir():
        files = [file for part in ("model_index.json", *PARTS) for file in _files(folder / part)]
        hashes = cached_hashes(files, cache_path)
        manifest = {file.relative_to(folder).as_posix(): digest for file, digest in hashes.items()}
        tokenizer = {name: value for name, value in manifest.items() if name.startswith("tokenizer/")}
    elif folder.is_file():
        manifest = {folder.name: cached_hashes([folder], cache_path)[folder]}
        tokenizer = {"model": "CLIP"}  # every single file has CLIP's own tokenizer
    else:
        tokenizer = {"model": base.model, "revision": base.revision}
        manifest = {**tokenizer, "variant": base.variant}
    if lora_start:
        manifest |= _hashes_of_lora(Path(lora_start), cache_path)
    write_json(manifest_path, manifest)
    write_json(tokenizer_path, tokenizer)


def _hashes_of_lora(path: Path, cache_path: Path) -> dict[str, str]:
    if not path.is_file():
        raise StageError(f"teacher.lora_start: {str(path)!r} is not a file here; correct the path, or leave it empty")
    files = {"teacher.lora_start": path, f"teacher.lora_start/{ADAPTER_CONFIG}": path.with_name(ADAPTER_CONFIG)}
    hashes = cached_hashes([file for file in files.values() if file.is_file()], cache_path)
    return {name: hashes[file] for name, file in files.items() if file in hashes}


def _files(path: Path) -> list[Path]:
    if path.is_file():
        return [path]
    return sorted(item for item in path.rglob("*") if item.is_file())
