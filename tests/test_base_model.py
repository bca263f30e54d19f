"""A base model that cannot be used is refused before its weights, or anything else, is loaded."""

import json
import re
from pathlib import Path

import pytest

from naruto_add.base_model import check_base_model, latent_side
from naruto_add.runtime import StageError

VAE, UNET = {"block_out_channels": [128, 256, 512, 512]}, {"block_out_channels": [320, 640, 1280, 1280]}
"""Of Stable Diffusion 1.5."""


@pytest.fixture
def model(tmp_path: Path) -> Path:
    for part, config in (("vae", VAE), ("unet", UNET)):
        (tmp_path / part).mkdir()
        (tmp_path / part / "config.json").write_text(json.dumps(config))
    return tmp_path


@pytest.mark.parametrize(("resolution_px", "side"), [(512, 64), (64, 8), (768, 96)])
def test_latents_have_an_eighth_of_the_side(resolution_px: int, side: int) -> None:
    assert latent_side(VAE, UNET, resolution_px=resolution_px) == side


def test_sizes_that_cannot_be_halved_as_often_are_refused(model: Path) -> None:
    check_base_model(str(model), revision="", resolution_px=512)
    message = "base.resolution_px: 520 is not a multiple of 64, the autoencoder's factor 8 times the U-Net's 8"
    with pytest.raises(StageError, match=re.escape(message)):
        check_base_model(str(model), revision="", resolution_px=520)


@pytest.mark.parametrize("name", ["base/modle", "./mine", "/nowhere/mine", "../mine", "mine", "my/own/mine"])
def test_folders_that_are_not_there_are_named(name: str) -> None:
    with pytest.raises(StageError, match=re.escape(f"base.model: {name!r} is not a folder")):
        check_base_model(name, revision="", resolution_px=64)


def test_repositories_are_pinned() -> None:
    check_base_model("owner/name", revision="0" * 40, resolution_px=64)
    with pytest.raises(StageError, match=r"base\.revision: '' is not a commit, and base\.model 'owner/name'"):
        check_base_model("owner/name", revision="", resolution_px=64)


@pytest.mark.parametrize("content", [None, "{", "\x00"])
def test_half_a_pipeline_is_refused(model: Path, content: str | None) -> None:
    config = model / "unet/config.json"
    config.unlink() if content is None else config.write_text(content)
    with pytest.raises(StageError, match=r"base\.model: .* has no unet/config\.json that can be read"):
        check_base_model(str(model), revision="", resolution_px=64)
