"""Models that cannot be loaded: messages that name the culprit and the remedy."""

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from naruto_add.diffusion.bundle import load_bundle, load_pipeline_folder, load_unet
from naruto_add.params import Base
from naruto_add.runtime import StageError

Damage = Callable[[Path], object]


def _empty(folder: Path) -> None:
    shutil.rmtree(folder)
    folder.mkdir()


def _cut_weights(folder: Path) -> None:
    path = next(folder.rglob("diffusion_pytorch_model.safetensors"))
    path.write_bytes(path.read_bytes()[:100])


def _drop_weights(folder: Path) -> None:
    next(folder.rglob("diffusion_pytorch_model.safetensors")).unlink()


@pytest.mark.parametrize("damage", [shutil.rmtree, _empty, _cut_weights, _drop_weights])
def test_a_stages_folder_is_named_with_how_to_make_it_again(
    damage: Damage, tiny_pipeline_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    pipeline, unet = Path("models/teacher"), Path("models/student")
    shutil.copytree(tiny_pipeline_dir, pipeline)
    shutil.copytree(tiny_pipeline_dir / "unet", unet)
    damage(pipeline)
    damage(unet)
    with pytest.raises(StageError, match=r"^models/teacher cannot be loaded: (?s:.*); run `dvc repro`"):
        load_pipeline_folder(pipeline, precision="fp32")
    with pytest.raises(StageError, match=r"^models/student cannot be loaded: (?s:.*); run `dvc repro`"):
        load_unet(unet, precision="fp32")


@pytest.mark.parametrize(
    ("damage", "variant"), [(lambda path: (path / "model_index.json").unlink(), ""), (_cut_weights, ""), (bool, "fp16")]
)
def test_the_base_model_is_named_by_its_key(
    damage: Damage, variant: str, tiny_pipeline_dir: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "model"
    shutil.copytree(tiny_pipeline_dir, folder)
    damage(folder)
    base = Base(model=str(folder), revision="", variant=variant, precision="fp32", resolution_px=32)
    with pytest.raises(StageError, match=r"^base\.model: '\S*model' cannot be loaded: (?s:.*); check base\.model"):
        load_bundle(base)
