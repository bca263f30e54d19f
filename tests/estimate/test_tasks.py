"""The computed memory changes with the parameters as it must; the presets for SD 1.5 fit (slow)."""

from pathlib import Path
from typing import Any

import pytest
import torch
from ruamel.yaml import YAML

from naruto_add.config.load import parse_params
from naruto_add.config.profiles import compose_profile
from naruto_add.config.schema import Params
from naruto_add.diffusion.placement import picture_bytes
from naruto_add.estimate.disk import disk_bytes
from naruto_add.estimate.fake import measuring
from naruto_add.estimate.machine import GIB, Machine
from naruto_add.estimate.networks import SD15_UNET, SD15_VAE, Shapes, new_unet, new_vae
from naruto_add.estimate.report import estimate_text, stage_peaks
from naruto_add.estimate.tasks import Task, add_tasks, all_tasks, num_student_weights, student_tasks, teacher_tasks

ROOT = Path(__file__).parents[2]
SD15 = Shapes(SD15_UNET, SD15_VAE, 64, is_assumed=True)
SMALL = Shapes(
    {**SD15_UNET, "block_out_channels": (32, 32, 64, 64), "cross_attention_dim": 32},
    {**SD15_VAE, "block_out_channels": (32, 32, 32, 32)},
    16,
    is_assumed=False,
)


def _params(name: str = "sd15", **changes: Any) -> Params:
    """The profile with these changes; two underscores are a dot."""
    values = YAML(typ="safe").load(compose_profile(name, root=ROOT))
    for key, value in changes.items():
        *path, last = key.split("__")
        section = values
        for part in path:
            section = section[part]
        section[last] = value
    return parse_params(values)


def _peak(tasks: Any, name: str) -> int:
    return next(task.peak_bytes for task in tasks if task.name.startswith(name))


def test_parameter_counts_are_those_of_sd15_and_bk_sdm() -> None:
    counts = [
        new_unet(SD15, torch.float32, name).num_parameters() for name in ("none", "bk_base", "bk_small", "bk_tiny")
    ]
    assert counts == [859_520_964, 579_384_964, 482_346_884, 323_384_964]


def test_an_average_on_the_cpu_saves_four_bytes_a_weight_and_8_bit_adamw_six() -> None:
    weights = num_student_weights(_params(), SMALL)
    plain, on_cpu, both = (
        _peak(student_tasks(_params(**changes), SMALL), "trajectory")
        for changes in (
            {},
            {"student__optimizer__ema_on_cpu": True},
            {"student__optimizer__ema_on_cpu": True, "student__optimizer__name": "adamw_8bit"},
        )
    )
    assert plain - on_cpu == pytest.approx(4 * weights, rel=0.05)
    assert on_cpu - both == pytest.approx(6 * weights, rel=0.05)


@pytest.mark.parametrize(
    ("tasks", "stage", "name"), [(student_tasks, "student", "knowledge"), (add_tasks, "add", "train")]
)
def test_parts_and_checkpointing_save_memory_and_checkpointing_costs_operations(
    tasks: Any, stage: str, name: str
) -> None:
    changes: list[dict[str, Any]] = [
        {},
        {f"{stage}__accumulation_steps": 4},
        {f"{stage}__gradient_checkpointing": True},
    ]
    plain, parts, checkpointing = (
        next(task for task in tasks(_params(**each), SMALL) if task.name.startswith(name)) for each in changes
    )
    assert parts.peak_bytes < 0.75 * plain.peak_bytes
    assert checkpointing.peak_bytes < 0.9 * plain.peak_bytes
    assert parts.flops == pytest.approx(plain.flops, rel=0.1)
    assert plain.flops < checkpointing.flops < 1.5 * plain.flops


def test_the_second_phase_of_the_warm_up_does_not_hold_the_teacher() -> None:
    tasks = list(student_tasks(_params(), SMALL))
    teacher = new_unet(SMALL, torch.bfloat16).num_parameters() * 2
    assert _peak(tasks, "knowledge") - _peak(tasks, "trajectory") > teacher


def test_encoding_does_not_hold_the_u_net() -> None:
    encode = _peak(teacher_tasks(_params(), SMALL, 10), "encode")
    wide = Shapes({**SMALL.unet, "block_out_channels": (64, 64, 128, 128)}, SMALL.vae, 16, is_assumed=False)
    assert _peak(teacher_tasks(_params(), wide, 10), "encode") == encode


def test_the_memory_that_the_autoencoder_reserves_for_a_picture_is_enough_and_not_too_much() -> None:
    shapes = Shapes(SD15_UNET, {**SD15_VAE, "block_out_channels": (32, 64, 128, 128)}, 32, is_assumed=False)
    for work in ("encode", "decode"):
        with measuring() as meter, torch.no_grad():
            vae = new_vae(shapes)
            meter.hold(vae)
            meter.start()
            weights = meter.held
            vae.encode(torch.empty(1, 3, 256, 256)) if work == "encode" else vae.decode(shapes.latents(1))
        assert 0.5 < (meter.peak - weights) / picture_bytes(vae, num_pixels=256**2) < 1


def test_disk_grows_with_the_pool_and_shrinks_with_links() -> None:
    params = _params()
    plain, larger, linked = (
        sum(disk_bytes(each, SMALL, num_pictures=100, is_linked=is_linked).values())
        for each, is_linked in ((params, False), (_params(student__pool_size=16384), False), (params, True))
    )
    samples = 8192 * 5 * 4 * 16 * 16 * 4  # noise, three states and x0
    assert larger - plain == 2 * samples  # DVC keeps a copy
    assert linked < 0.7 * plain


def test_the_report_says_what_does_not_fit_and_what_to_change() -> None:
    tasks = [
        Task("teacher", "train, parts of 8", 15 * 10**9, 36e18),
        Task("add", "train, parts of 4", 5 * 10**9, 36e17),
    ]
    small = Machine("card", 12.0 * GIB, 100.0, 10**9)
    text = estimate_text(tasks, {"pool": 2 * 10**9}, small, notes=["note"])
    assert "teacher: needs 15.7 GB, but card has 12.9 GB; to need less memory: raise accumulation_steps" in text
    assert "add: needs" not in text
    assert "100.00 h" in text
    assert "disk: needs 2.0 GB, but 1.0 GB are free" in text
    large = Machine("card", 24.0 * GIB, None, 10**12)
    text = estimate_text(tasks, {"pool": 2 * 10**9}, large, notes=[])
    assert "All stages fit into the 25.8 GB of card" in text
    assert "H100" in text


@pytest.mark.slow
@pytest.mark.parametrize("gigabytes", [8, 12, 16, 24, 80])
def test_a_preset_fits_its_card(gigabytes: int) -> None:
    tasks = list(all_tasks(_params(f"sd15-{gigabytes}gb"), SD15, num_pictures=1221))
    too_large = {stage: peak for stage, peak in stage_peaks(tasks).items() if peak > gigabytes * 1e9}
    assert too_large == {}
