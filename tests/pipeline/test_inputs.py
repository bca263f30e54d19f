"""A manifest changes if and only if the base model does."""

import json
import os
from pathlib import Path
from typing import Any

import pytest

from naruto_add.config.load import load_params
from naruto_add.pipeline.inputs import write_manifests
from naruto_add.runtime.errors import StageError

ROOT = Path(__file__).parents[2]
BASE = load_params(ROOT / "params.yaml").base


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """A folder with the layout of a pipeline."""
    folder = tmp_path / "model"
    for name in ("model_index.json", "unet/config.json", "unet/weights.safetensors", "tokenizer/tokenizer.json"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(f"content of {name}")
    return folder


def _manifests(
    model: Path | str, folder: Path, lora_start: str = "", **changes: Any
) -> tuple[dict[str, str], dict[str, str]]:
    """The manifests of the model and of its tokenizer."""
    write_manifests(
        BASE.model_copy(update={"model": str(model), **changes}),
        lora_start=lora_start,
        manifest_path=folder / "base.json",
        tokenizer_path=folder / "tokenizer.json",
        cache_path=folder / "cache/hashes.json",
    )
    whole, tokenizer = (json.loads((folder / f"{name}.json").read_text()) for name in ("base", "tokenizer"))
    return whole, tokenizer


def test_a_folder_is_listed_by_the_files_that_are_loaded(model: Path, tmp_path: Path) -> None:
    for name in ("README.md", ".git/HEAD", "safety_checker/weights.bin"):
        (model / name).parent.mkdir(exist_ok=True)
        (model / name).touch()
    whole, tokenizer = _manifests(model, tmp_path)
    expected = ["model_index.json", "tokenizer/tokenizer.json", "unet/config.json", "unet/weights.safetensors"]
    assert list(whole) == expected
    assert tokenizer == {"tokenizer/tokenizer.json": whole["tokenizer/tokenizer.json"]}


def test_a_changed_file_changes_the_manifest(model: Path, tmp_path: Path) -> None:
    before, tokenizer_before = _manifests(model, tmp_path)
    (model / "unet/weights.safetensors").write_text("other content")
    after, tokenizer_after = _manifests(model, tmp_path)
    assert [name for name in before if before[name] != after[name]] == ["unet/weights.safetensors"]
    assert tokenizer_after == tokenizer_before


def test_the_lora_that_training_starts_from_is_in_the_manifest(model: Path, tmp_path: Path) -> None:
    lora = tmp_path / "lora.safetensors"
    with pytest.raises(StageError, match=r"^teacher\.lora_start: '\S*lora\.safetensors' is not a file here"):
        _manifests(model, tmp_path, lora_start=str(lora))
    lora.write_text("weights")
    before, _ = _manifests(model, tmp_path, lora_start=str(lora))
    lora.write_text("other weights")
    after, _ = _manifests(model, tmp_path, lora_start=str(lora))
    assert [name for name in before if before[name] != after[name]] == ["teacher.lora_start"]
    lora.with_name("adapter_config.json").write_text("peft's settings")
    with_settings, _ = _manifests(model, tmp_path, lora_start=str(lora))
    assert with_settings.keys() - after.keys() == {"teacher.lora_start/adapter_config.json"}


def test_a_single_file_is_listed_with_its_hash(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    path.write_text("weights")
    before, tokenizer = _manifests(path, tmp_path)
    path.write_text("other weights")
    after, tokenizer_after = _manifests(path, tmp_path)
    assert list(before) == list(after) == ["model.safetensors"] and before != after
    assert tokenizer == tokenizer_after


@pytest.mark.parametrize("name", ["unet/more.safetensors", "vae/config.json"])
def test_an_added_file_changes_the_manifest(model: Path, tmp_path: Path, name: str) -> None:
    before, _ = _manifests(model, tmp_path)
    (model / name).parent.mkdir(exist_ok=True)
    (model / name).touch()
    after, _ = _manifests(model, tmp_path)
    assert after.keys() - before.keys() == {name}


def test_another_place_and_time_do_not_change_the_manifest(model: Path, tmp_path: Path) -> None:
    before = _manifests(model, tmp_path)
    os.utime(model / "unet/config.json", (1, 1))
    assert _manifests(model, tmp_path) == before
    model.rename(tmp_path / "moved")
    assert _manifests(tmp_path / "moved", tmp_path) == before


def test_files_with_the_same_size_and_time_are_not_read_again(model: Path, tmp_path: Path) -> None:
    before = _manifests(model, tmp_path)
    file = model / "unet/weights.safetensors"
    status, length = file.stat(), len(file.read_text())
    file.write_text("x" * length)
    os.utime(file, ns=(status.st_atime_ns, status.st_mtime_ns))
    assert _manifests(model, tmp_path) == before
    os.utime(file, ns=(status.st_atime_ns, status.st_mtime_ns + 1))
    assert _manifests(model, tmp_path) != before


def test_the_cache_forgets_files_that_no_longer_exist(model: Path, tmp_path: Path) -> None:
    _manifests(model, tmp_path)
    model.rename(tmp_path / "moved")
    _manifests(tmp_path / "moved", tmp_path)
    cached = json.loads((tmp_path / "cache/hashes.json").read_text())
    assert all(name.startswith(str(tmp_path / "moved")) for name in cached)


@pytest.mark.parametrize("content", ["", "{", "[]", "3", '{"a": 3}', "\x00"])
def test_a_damaged_cache_is_replaced(model: Path, tmp_path: Path, content: str) -> None:
    before = _manifests(model, tmp_path)
    (tmp_path / "cache/hashes.json").write_text(content)
    assert _manifests(model, tmp_path) == before
    assert len(json.loads((tmp_path / "cache/hashes.json").read_text())) == len(before[0])


def test_a_hub_repository_is_known_by_its_revision(tmp_path: Path) -> None:
    whole, tokenizer = _manifests("owner/name", tmp_path, revision="0" * 40, variant="fp16")
    assert whole == {"model": "owner/name", "revision": "0" * 40, "variant": "fp16"}
    assert tokenizer == {"model": "owner/name", "revision": "0" * 40}
