"""A base model that cannot be used is refused before its weights, or anything else, is loaded."""

import json
import re
from pathlib import Path
from typing import Any, get_args

import pytest
import torch
from diffusers import UNet2DConditionModel
from ruamel.yaml import YAML

from naruto_add.base_model import check_base_model, check_base_use, latent_side, refuse_unfit_base
from naruto_add.models.discriminator import UnetFeatures
from naruto_add.models.student import Architecture, student_config
from naruto_add.params import load_params
from naruto_add.runtime import StageError

ROOT = Path(__file__).parent.parent
VAE: dict[str, Any] = {"block_out_channels": [128, 256, 512, 512]}
UNET: dict[str, Any] = {"block_out_channels": [320, 640, 1280, 1280], "layers_per_block": 2}
"""Of Stable Diffusion 1.5."""
COMMIT = "0" * 40
PARAMS = load_params(ROOT / "profiles/mini.yaml")
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
    """The folder of the hub's cache where owner/name would lie; the hub itself is out of reach."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    return tmp_path / "hub/models--owner--name/snapshots" / COMMIT


def _pipeline(folder: Path, vae: dict[str, Any], unet: dict[str, Any]) -> Path:
    for part, config in (("vae", vae), ("unet", unet)):
        (folder / part).mkdir(parents=True, exist_ok=True)
        (folder / part / "config.json").write_text(json.dumps(config))
    return folder


def _check(model: Path | str, **changes: Any) -> None:
    """With these keys, `section__name`, over those of USE."""
    values = {**USE, "base.model": str(model), **{key.replace("__", "."): value for key, value in changes.items()}}
    params = PARAMS
    for key, value in values.items():
        section, name = key.split(".")
        changed = getattr(params, section).model_copy(update={name: value})
        params = params.model_copy(update={section: changed})
    check_base_use(params)


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


@pytest.mark.parametrize("content", [None, "{", "\x00", "[]", "{}"])
def test_half_a_pipeline_is_refused(model: Path, content: str | None) -> None:
    config = model / "unet/config.json"
    config.unlink() if content is None else config.write_text(content)
    with pytest.raises(StageError, match=r"base\.model: .* has no unet/config\.json that can be read"):
        check_base_model(str(model), revision="", resolution_px=64)


MISTAKES: list[tuple[dict[str, Any], str]] = [
    ({"base__resolution_px": 520}, "base.resolution_px: 520 is not a multiple of 64"),
    ({"add__resolutions_px": [768, "512x520"]}, "add.resolutions_px: the sides of 512x520 are not multiples of 64"),
    ({"add__resolutions_px": [96]}, "add.resolutions_px: the sides of 96 are not multiples of 64"),
    (
        {"add__discriminator_blocks": ["midblock"]},
        "add.discriminator_blocks: 'midblock' is not a block of the base's",
    ),
    (
        {"add__discriminator_blocks": ["up_blocks.4"]},
        "use some of ['down_blocks.0', 'down_blocks.1', 'down_blocks.2', 'down",
    ),
]


@pytest.mark.parametrize(("change", "message"), MISTAKES)
def test_what_later_stages_would_refuse_is_refused(model: Path, change: dict[str, Any], message: str) -> None:
    _check(model)
    with pytest.raises(StageError, match=re.escape(message)):
        _check(model, **change)


def test_all_mistakes_are_named_at_once(model: Path) -> None:
    _pipeline(model, VAE, UNET | {"layers_per_block": 1})
    with pytest.raises(StageError) as refused:
        _check(model, add__resolutions_px=[96], add__discriminator_blocks=["a", "b"])
    keys = [line.partition(":")[0] for line in str(refused.value).splitlines()]
    assert keys == ["add.resolutions_px", "student.architecture", *["add.discriminator_blocks"] * 2]


@pytest.mark.parametrize("layers", [1, 2, [2, 2, 1, 2], [2, 3, 2, 2], None])
@pytest.mark.parametrize("channels", [[8], [8, 8], [8, 8, 8], [8, 8, 16], [8, 16, 16, 16]])
@pytest.mark.parametrize("architecture", get_args(Architecture))
def test_the_student_that_is_refused_is_the_one_that_cannot_be_built(
    model: Path, architecture: Architecture, channels: list[int], layers: Any
) -> None:
    unet = {"block_out_channels": channels, "up_block_types": ["UpBlock2D"] * len(channels)}
    _pipeline(model, VAE, unet if layers is None else unet | {"layers_per_block": layers})
    built = _refusal(student_config, unet | {"layers_per_block": layers or 2}, architecture)
    checked = _refusal(_check, model, student__architecture=architecture, add__discriminator_blocks=[])
    assert (built or "").partition(",")[0] == (checked or "").partition(",")[0]


def _refusal(function: Any, *args: Any, **kwargs: Any) -> str | None:
    try:
        function(*args, **kwargs)
    except StageError as error:
        return str(error)
    return None


@pytest.mark.parametrize("mid_block", ["UNetMidBlock2DCrossAttn", None])
def test_the_blocks_are_those_of_the_network(model: Path, mid_block: str | None) -> None:
    types = {"down_block_types": ("DownBlock2D",) * 2, "up_block_types": ("UpBlock2D",) * 2, "norm_num_groups": 8}
    with torch.device("meta"):
        unet = UNet2DConditionModel(block_out_channels=(8, 8), mid_block_type=mid_block, **types)
    names = [*(name for name, _ in unet.named_modules() if name.count(".") < 2), "down_blocks.1", "up_blocks.1", "x"]
    _pipeline(model, VAE, dict(unet.config))
    for name in names:
        known = _refusal(UnetFeatures, unet, [name])
        checked = _refusal(_check, model, student__architecture="none", add__discriminator_blocks=[name])
        assert (known is None) == (checked is None), name


def test_a_base_on_the_hub_is_checked_where_its_configurations_can_be_had(hub: Path) -> None:
    _check("owner/name", base__revision=COMMIT, base__resolution_px=520, add__discriminator_blocks=["typo"])
    _pipeline(hub, VAE, UNET)
    _check("owner/name", base__revision=COMMIT)
    for change, message in MISTAKES:
        with pytest.raises(StageError, match=re.escape(message)):
            _check("owner/name", base__revision=COMMIT, **change)
    (hub / "vae/config.json").unlink()
    _check("owner/name", base__revision=COMMIT, base__resolution_px=520)


@pytest.mark.parametrize("profile", ["mini", "sd15"])
def test_profiles_fit_their_base(profile: str, hub: Path) -> None:
    params = load_params(ROOT / "profiles" / f"{profile}.yaml")
    if profile == "sd15":
        _pipeline(hub, VAE, UNET)
    _check(
        ROOT / params.base.model if profile == "mini" else "owner/name",
        base__revision=COMMIT,
        base__resolution_px=params.base.resolution_px,
        add__resolutions_px=params.add.resolutions_px,
        student__architecture=params.student.architecture,
        add__discriminator_blocks=params.add.discriminator_blocks,
    )


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("base.model", "base/modle", "base.model: 'base/modle' is not a folder"),
        ("student.architecture", "bk_tiny", "student.architecture: bk_tiny"),
        ("add.resolutions_px", [72], "add.resolutions_px: the sides of 72"),
        ("add.discriminator_blocks", ["typo"], "add.discriminator_blocks: 'typo'"),
    ],
)
def test_every_stage_ends_at_once_where_the_base_does_not_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, key: str, value: Any, message: str
) -> None:
    monkeypatch.chdir(ROOT)
    levels = {"block_out_channels": [8, 8, 16]}
    values = YAML(typ="safe").load(ROOT / "profiles/mini.yaml")
    values["base"]["model"] = str(_pipeline(tmp_path / "model", {"block_out_channels": [8, 8, 16, 16]}, levels))
    values["student"]["architecture"] = "none"
    values["add"]["discriminator_blocks"] = ["mid_block"]
    YAML().dump(values, tmp_path / "params.yaml")
    refuse_unfit_base(tmp_path / "params.yaml")
    section, name = key.split(".")
    values[section][name] = value
    YAML().dump(values, tmp_path / "params.yaml")
    with pytest.raises(SystemExit, match=re.escape(f"error: {message}")):
        refuse_unfit_base(tmp_path / "params.yaml")


def test_bad_parameters_are_left_to_the_stage(tmp_path: Path) -> None:
    (tmp_path / "params.yaml").write_text("base: 3\n")
    refuse_unfit_base(tmp_path / "params.yaml")
