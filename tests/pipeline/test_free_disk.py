"""The disk is checked before the first stage: by a rough bound, and by the estimate where that is not enough."""

import importlib
import re
import shutil
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from ruamel.yaml import YAML

from naruto_add.config.load import load_params, parse_params
from naruto_add.config.profiles import compose_profile
from naruto_add.config.schema import Params
from naruto_add.estimate.disk import Disk, largest_disk, still_to_write
from naruto_add.estimate.networks import SD15_UNET, SD15_VAE, Shapes, shapes_of
from naruto_add.pipeline import free_disk
from naruto_add.pipeline.free_disk import check_free_disk
from naruto_add.runtime.errors import StageError
from naruto_add.runtime.units import GIB

ROOT = Path(__file__).parents[2]


class Usage(NamedTuple):
    """What `shutil.disk_usage` returns."""

    total: int
    used: int
    free: int


@pytest.fixture
def mini(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Params:
    """The parameters of mini, in a folder without results."""
    (tmp_path / "base").symlink_to(ROOT / "base")
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("DVC_ROOT", raising=False)
    return load_params(ROOT / "params.yaml")


def _set_free(monkeypatch: pytest.MonkeyPatch, num_bytes: int) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda _: Usage(10 * num_bytes, 9 * num_bytes, num_bytes))


def test_a_large_disk_passes_without_an_estimate(mini: Params, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(name: str) -> Any:
        raise AssertionError(name)

    monkeypatch.setattr(free_disk, "import_module", fail)
    _set_free(monkeypatch, 100 * GIB)
    check_free_disk(mini)


def test_a_small_disk_stops_before_the_first_stage_and_says_what_to_do(
    mini: Params, monkeypatch: pytest.MonkeyPatch
) -> None:
    _set_free(monkeypatch, 10**8)
    with pytest.raises(StageError) as caught:
        check_free_disk(mini)
    message = str(caught.value)
    assert message.startswith("disk: the stage add needs ")
    assert "checkpoints" in message
    assert "but 95.4 MiB are free" in message
    assert "dvc gc --workspace" in message and "cache.type" in message


def test_a_disk_below_the_bound_but_large_enough_passes_after_an_estimate(
    mini: Params, monkeypatch: pytest.MonkeyPatch
) -> None:
    imported = []

    def note(name: str) -> Any:
        imported.append(name)
        return importlib.import_module(name)

    monkeypatch.setattr(free_disk, "import_module", note)
    _set_free(monkeypatch, int(free_disk._bound(mini)) - 1)
    check_free_disk(mini)
    assert imported


def test_what_is_there_already_needs_no_further_disk(mini: Params, monkeypatch: pytest.MonkeyPatch) -> None:
    _set_free(monkeypatch, 4 * 10**7)
    for name, size in {"data/pool.safetensors": GIB, ".dvc/cache/files": GIB, ".checkpoints/add/x/add.pt": GIB}.items():
        Path(name).parent.mkdir(parents=True, exist_ok=True)
        with Path(name).open("wb") as file:
            file.truncate(size)
    Path(".checkpoints/pool").mkdir()
    with Path(".checkpoints/pool/whole.safetensors").open("wb") as file:
        file.truncate(GIB)
    with pytest.raises(StageError) as caught:
        check_free_disk(mini)  # data set and models are missing still
    sizes = re.search(r"needs ([\d.]+) GiB .* of which ([\d.]+) GiB are not here yet", str(caught.value))
    assert sizes and float(sizes[2]) < 0.5 * float(sizes[1])


def test_files_larger_than_needed_do_not_make_up_for_others() -> None:
    disk = Disk("add", {"base model": 100, "pool": 10, "teacher": 20})
    assert still_to_write(disk, {"pool": 50, "teacher": 5}) == 15


@pytest.mark.parametrize("aspect_buckets", [False, True])
def test_the_bound_is_above_the_estimate_of_a_pool_on_the_embedded_base(aspect_buckets: bool) -> None:
    values = YAML(typ="safe").load(compose_profile("mini", root=ROOT))
    values["base"]["model"] = str(ROOT / values["base"]["model"])
    values["student"]["pool_size"] = 100_000
    values["ingest"]["aspect_buckets"] = aspect_buckets
    params = parse_params(values)
    disk = largest_disk(params, shapes_of(params.base), num_pictures=1400, is_linked=False)
    downloaded = disk.files["base model"] + disk.files["other networks"]
    assert disk.total - downloaded < free_disk._bound(params)


@pytest.mark.slow
@pytest.mark.parametrize("formats", [["diffusers"], ["diffusers", "single_file", "onnx", "onnx_int8", "demo"]])
@pytest.mark.parametrize("architecture", ["bk_tiny", "none"])
def test_the_bound_is_above_the_estimate(
    monkeypatch: pytest.MonkeyPatch, formats: list[str], architecture: str
) -> None:
    values = YAML(typ="safe").load(compose_profile("sd15", root=ROOT))
    values["export"] |= {"formats": formats, "precision": "fp32"}
    values["student"] |= {"architecture": architecture}
    values["add"] |= {"resolutions_px": [256], "score_backbone": "efficientnet_lite2"}
    params = parse_params(values)
    monkeypatch.setattr(free_disk, "base_weight_bytes", lambda *_: 2 * 1_066_235_307)  # SD 1.5 in fp16
    shapes = Shapes(SD15_UNET, SD15_VAE, 64, is_assumed=True)
    disk = largest_disk(params, shapes, num_pictures=1221, is_linked=False)
    downloaded = disk.files["base model"] + disk.files["other networks"]
    assert disk.total - downloaded < free_disk._bound(params) < 5 * disk.total
