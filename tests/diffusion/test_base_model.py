"""A base model that cannot be used is reported by its configuration files, before its weights are loaded."""

import json
import re
from pathlib import Path
from typing import Any, get_args

import pytest
import torch
from diffusers import UNet2DConditionModel

from naruto_add.config.load import load_params, parse_params, read_yaml
from naruto_add.config.profiles import compose_profile
from naruto_add.diffusion.base_model import (
    block_names,
    check_base_model,
    check_block_names,
    check_removable,
    latent_side,
    latent_size,
)
from naruto_add.models.student import Architecture, student_config
from naruto_add.pipeline.base_use import check_base_use
from naruto_add.runtime.errors import StageError

ROOT = Path(__file__).parents[2]
VAE: dict[str, Any] = {"block_out_channels": [128, 256, 512, 512]}
UNET: dict[str, Any] = {"block_out_channels": [320, 640, 1280, 1280], "layers_per_block": 2}
"""The values of Stable Diffusion 1.5."""
COMMIT = "0" * 40
PARAMS = load_params(ROOT / "params.yaml")
USE: dict[str, Any] = {
    "base.revision": "",
    "base.resolution_px": 512,
    "add.resolutions_px": [768, "512x640"],
    "student.architecture": "bk_tiny",
    "add.discriminator_blocks": ["down_blocks.3", "mid_block", "up_blocks.0"],
}


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return _pipeline(tmp_path / "model", VAE, UNET)


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of the hub's cache for the repository owner/name; the hub itself is offline."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    return tmp_path / "hub/models--owner--name/snapshots" / COMMIT


def _pipeline(folder: Path, vae: dict[str, Any], unet: dict[str, Any]) -> Path:
    for part, config in (("vae", vae), ("unet", unet)):
        (folder / part).mkdir(parents=True, exist_ok=True)
        (folder / part / "config.json").write_text(json.dumps(config))
    return folder


def _check(model: Path | str, **changes: Any) -> None:
    """`check_base_use` with these keys (`section__name`) on top of those of USE."""
    values = {**USE, "base.model": str(model), **{key.replace("__", "."): value for key, value in changes.items()}}
    params = PARAMS
    for key, value in values.items():
        section, name = key.split(".")
        changed = getattr(params, section).model_copy(update={name: value})
        params = params.model_copy(update={section: changed})
    check_base_use(params)


@pytest.mark.parametrize(("resolution_px", "side"), [(512, 64), (64, 8), (768, 96)])
def test_the_autoencoder_of_sd15_divides_sides_by_eight(resolution_px: int, side: int) -> None:
    assert latent_side(VAE, UNET, resolution_px=resolution_px) == side


def test_the_size_of_latents_is_height_and_width() -> None:
    assert latent_size(VAE, UNET, "512x640", key="add.resolutions_px") == (80, 64)


@pytest.mark.parametrize("resolution", [520, "520x512", "512x520"])
def test_sides_that_cannot_be_halved_often_enough_are_refused(resolution: int | str) -> None:
    message = f"add.resolutions_px: {resolution} must be a multiple of 64 on each side, because the autoencoder"
    with pytest.raises(StageError, match=re.escape(message)):
        latent_size(VAE, UNET, resolution, key="add.resolutions_px")


def test_a_folder_must_fit_the_resolution(model: Path) -> None:
    check_base_model(str(model), revision="", variant="", resolution_px=512)
    with pytest.raises(StageError, match=r"base\.resolution_px: 520 must be a multiple of 64"):
        check_base_model(str(model), revision="", variant="", resolution_px=520)


@pytest.mark.parametrize("name", ["base/modle", "./mine", "/nowhere/mine", "../mine", "mine", "my/own/mine"])
def test_a_missing_folder_is_reported(name: str) -> None:
    with pytest.raises(StageError, match=re.escape(f"base.model: {name!r} is not a folder")):
        check_base_model(name, revision="", variant="", resolution_px=64)


@pytest.mark.parametrize("revision", ["", "main", "0" * 39])
def test_a_hub_repository_must_be_pinned(revision: str) -> None:
    check_base_model("owner/name", revision=COMMIT, variant="", resolution_px=64)
    message = (
        f"base.revision: {revision!r} is not a commit, which has 40 hexadecimal digits, and base.model 'owner/name'"
    )
    with pytest.raises(StageError, match=re.escape(message)):
        check_base_model("owner/name", revision=revision, variant="", resolution_px=64)


@pytest.mark.parametrize("content", [None, "{", "\x00", "[]", "{}"])
def test_an_incomplete_folder_is_refused(model: Path, content: str | None) -> None:
    config = model / "unet/config.json"
    config.unlink() if content is None else config.write_text(content)
    with pytest.raises(StageError, match=r"base\.model: .* has no readable unet/config\.json"):
        check_base_model(str(model), revision="", variant="", resolution_px=64)


@pytest.mark.parametrize("content", ["", "{", "\x00", "[]", '"epsilon"'])
def test_a_damaged_schedule_is_refused(model: Path, content: str) -> None:
    (model / "scheduler").mkdir()
    (model / "scheduler/scheduler_config.json").write_text(content)
    with pytest.raises(
        StageError, match=r"^base\.model: .* has no readable scheduler/scheduler_config\.json .*; name a"
    ):
        _check(model)


MISTAKES: list[tuple[dict[str, Any], str]] = [
    ({"base__resolution_px": 520}, "base.resolution_px: 520 must be a multiple of 64"),
    ({"add__resolutions_px": [768, "512x520"]}, "add.resolutions_px: 512x520 must be a multiple of 64"),
    ({"add__resolutions_px": [96]}, "add.resolutions_px: 96 must be a multiple of 64"),
    ({"add__discriminator_blocks": ["midblock"]}, "add.discriminator_blocks: 'midblock' is not a block"),
    ({"add__discriminator_blocks": ["up_blocks.4"]}, "use some of ['down_blocks.0', 'down_blocks.1', 'down_blocks.2'"),
]


@pytest.mark.parametrize(("change", "message"), MISTAKES)
def test_what_a_later_stage_would_refuse_is_refused(model: Path, change: dict[str, Any], message: str) -> None:
    _check(model)
    with pytest.raises(StageError, match=re.escape(message)):
        _check(model, **change)


def test_all_mistakes_are_reported_at_once(model: Path) -> None:
    _pipeline(model, VAE, UNET | {"layers_per_block": 1})
    with pytest.raises(StageError) as refused:
        _check(model, add__resolutions_px=[96], add__discriminator_blocks=["a", "b"])
    keys = [line.partition(":")[0] for line in str(refused.value).splitlines()]
    assert keys == ["add.resolutions_px", "student.architecture", *["add.discriminator_blocks"] * 2]


@pytest.mark.parametrize(
    ("architecture", "change", "message"),
    [
        ("bk_base", {"layers_per_block": 1}, "bk_base removes layers of blocks"),
        ("bk_small", {"layers_per_block": [2, 2, 1, 2]}, "bk_small removes layers of blocks"),
        ("bk_tiny", {"block_out_channels": [8, 8]}, "bk_tiny removes the deepest level"),
        ("bk_tiny", {"block_out_channels": [8, 8, 16]}, "bk_tiny removes the deepest level"),
        ("shallow", {"block_out_channels": [8, 8, 16]}, "shallow removes the deepest level"),
    ],
)
def test_a_unet_without_the_blocks_to_remove_is_refused(
    architecture: str, change: dict[str, Any], message: str
) -> None:
    with pytest.raises(StageError, match=rf"^student\.architecture: {message}"):
        check_removable(UNET | change, architecture)


@pytest.mark.parametrize("layers", [2, [2, 3, 2], None])
@pytest.mark.parametrize("channels", [[8, 8, 8], [8, 16, 16]])
@pytest.mark.parametrize("architecture", get_args(Architecture))
def test_a_student_that_is_accepted_can_be_built(architecture: Architecture, channels: list[int], layers: Any) -> None:
    config = {
        "block_out_channels": channels,
        "down_block_types": ["DownBlock2D"] * 3,
        "up_block_types": ["UpBlock2D"] * 3,
        "norm_num_groups": 8,
        **({} if layers is None else {"layers_per_block": layers}),
    }
    check_removable(config, architecture)
    with torch.device("meta"):
        student = UNet2DConditionModel.from_config(student_config(config, architecture))
    assert len(student.down_blocks) == (2 if architecture in ("bk_tiny", "shallow") else 3)


@pytest.mark.parametrize("mid_block", ["UNetMidBlock2DCrossAttn", None])
def test_block_names_are_those_of_the_network(mid_block: str | None) -> None:
    types = {"down_block_types": ("DownBlock2D",) * 2, "up_block_types": ("UpBlock2D",) * 2, "norm_num_groups": 8}
    with torch.device("meta"):
        unet = UNet2DConditionModel(block_out_channels=(8, 8), mid_block_type=mid_block, **types)
    modules = {name for name, module in unet.named_modules() if module is not None}
    blocks = {name for name in modules if re.fullmatch(r"(down|up)_blocks\.\d+|mid_block", name)}
    assert set(block_names(unet.config)) == blocks
    for name in modules - blocks:
        with pytest.raises(StageError, match=re.escape(f"add.discriminator_blocks: {name!r} is not a block")):
            check_block_names(unet.config, [name])


def test_a_base_on_the_hub_is_checked_if_its_configurations_can_be_downloaded(hub: Path) -> None:
    _check("owner/name", base__revision=COMMIT, base__resolution_px=520, add__discriminator_blocks=["typo"])
    _pipeline(hub, VAE, UNET)
    _check("owner/name", base__revision=COMMIT)
    for change, message in MISTAKES:
        with pytest.raises(StageError, match=re.escape(message)):
            _check("owner/name", base__revision=COMMIT, **change)
    (hub / "vae/config.json").unlink()
    _check("owner/name", base__revision=COMMIT, base__resolution_px=520)


def test_mini_fits_its_base(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    check_base_use(load_params(ROOT / "params.yaml"))


def test_sd15_fits_its_base(model: Path, tmp_path: Path) -> None:
    (tmp_path / "params.yaml").write_text(compose_profile("sd15", root=ROOT))
    values = read_yaml(tmp_path / "params.yaml")
    values["base"]["model"] = str(model)
    check_base_use(parse_params(values))
