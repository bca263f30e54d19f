"""The computed memory changes with the parameters as it must; the presets for SD 1.5 fit (slow)."""

from collections.abc import Iterator
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
from naruto_add.estimate.machine import Machine
from naruto_add.estimate.networks import SD15_UNET, SD15_VAE, Shapes, new_unet, new_vae
from naruto_add.estimate.report import estimate_lines, stage_peaks
from naruto_add.estimate.tasks import (
    Task,
    add_tasks,
    all_tasks,
    decoding,
    encoding,
    num_student_weights,
    uncounted,
    warm_up_task,
)
from naruto_add.runtime.units import GIB, MIB

ROOT = Path(__file__).parents[2]
SD15 = Shapes(SD15_UNET, SD15_VAE, 64, is_assumed=True)
SMALL = Shapes(
    {
        **SD15_UNET,
        "block_out_channels": (32, 64),
        "down_block_types": ("CrossAttnDownBlock2D", "DownBlock2D"),
        "up_block_types": ("UpBlock2D", "CrossAttnUpBlock2D"),
        "cross_attention_dim": 32,
    },
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


@pytest.mark.slow
def test_parameter_counts_are_those_of_sd15_and_bk_sdm() -> None:
    counts = [
        new_unet(SD15, torch.float32, name).num_parameters() for name in ("none", "bk_base", "bk_small", "bk_tiny")
    ]
    assert counts == [859_520_964, 579_384_964, 482_346_884, 323_384_964]


def test_an_average_on_the_cpu_saves_four_bytes_a_weight_and_8_bit_adamw_six() -> None:
    weights = num_student_weights(_params(), SMALL)
    plain, on_cpu, both = (
        warm_up_task(_params(**changes), SMALL, is_knowledge=False).peak_bytes
        for changes in (
            {},
            {"student__optimizer__ema_on_cpu": True},
            {"student__optimizer__ema_on_cpu": True, "student__optimizer__name": "adamw_8bit"},
        )
    )
    assert plain - on_cpu == pytest.approx(4 * weights, rel=0.05)
    assert on_cpu - both == pytest.approx(6 * weights, rel=0.05)


def test_parts_and_checkpointing_save_memory_and_checkpointing_costs_operations() -> None:
    plain, parts, checkpointing = (
        warm_up_task(_params(**changes), SMALL, is_knowledge=False)
        for changes in ({}, {"student__accumulation_steps": 4}, {"student__gradient_checkpointing": True})
    )
    assert parts.peak_bytes < 0.75 * plain.peak_bytes
    assert checkpointing.peak_bytes < 0.9 * plain.peak_bytes
    assert parts.flops == pytest.approx(plain.flops, rel=0.1)
    assert plain.flops < checkpointing.flops < 1.5 * plain.flops


def test_the_second_phase_of_the_warm_up_does_not_hold_the_teacher() -> None:
    knowledge, trajectory = (warm_up_task(_params(), SMALL, is_knowledge=value) for value in (True, False))
    teacher = new_unet(SMALL, torch.bfloat16).num_parameters() * 2
    assert knowledge.peak_bytes - trajectory.peak_bytes > teacher


def test_a_step_of_add_holds_the_student_its_state_the_teacher_and_the_heads() -> None:
    blocks = {"add__discriminator_blocks": ["down_blocks.0", "mid_block"]}
    train = next(add_tasks(_params(**blocks), SMALL))
    student = num_student_weights(_params(), SMALL)
    teacher = new_unet(SMALL, torch.bfloat16).num_parameters()
    assert train.peak_bytes > 20 * student + 2 * teacher  # weights, gradients, two averages of AdamW, moving average
    assert train.flops > 0


def test_what_has_no_weight_is_not_counted_and_decoded_crops_are() -> None:
    plain, without_renoised, with_pictures = (
        next(add_tasks(_params(add__discriminator_blocks=["mid_block"], **changes), SMALL))
        for changes in ({}, {"add__renoised_weight": 0.0}, {"add__discriminators": ["latent", "pixel"]})
    )
    assert without_renoised.flops < plain.flops < with_pictures.flops
    assert plain.peak_bytes < with_pictures.peak_bytes


def test_without_a_latent_discriminator_the_teachers_features_are_not_counted() -> None:
    blocks = {"add__discriminator_blocks": ["mid_block"]}
    both, pixel = (
        next(add_tasks(_params(**blocks, add__discriminators=names), SMALL))
        for names in (["latent", "pixel"], ["pixel"])
    )
    assert pixel.flops < both.flops and pixel.peak_bytes < both.peak_bytes


def test_the_heads_have_no_moving_average() -> None:
    """So only the student's weights are saved by an average on the CPU."""
    blocks = {"add__discriminator_blocks": ["down_blocks.0", "mid_block"]}
    on_gpu, on_cpu = (
        next(add_tasks(_params(**blocks, add__optimizer__ema_on_cpu=value), SMALL)) for value in (False, True)
    )
    assert on_gpu.peak_bytes - on_cpu.peak_bytes == pytest.approx(4 * num_student_weights(_params(), SMALL), abs=2**17)


def test_every_part_that_is_not_counted_is_named_and_the_verdict_says_at_least() -> None:
    assert uncounted(_params(add__discriminators=["latent"])) == []
    changes = {
        "teacher__lora_text_encoder": True,
        "add__discriminators": ["pixel"],
        "add__perceptual_weight": 0.5,
        "add__image_text_weight": 0.5,
        "add__resolutions_px": [256],
    }
    keys = [key.replace("__", ".") for key in changes]
    parts = uncounted(_params(**changes))
    assert len(parts) == len(keys)
    assert all(key in part for key, part in zip(keys, parts, strict=True))

    task, disk = Task("add", "train", 15 * GIB, 1.0), {"pool": 1}
    verdicts = {24: "The stages need at least 15.7 GiB; card has 24.0 GiB", 12: "add: needs at least 15.7 GiB"}
    for gibibytes, words in verdicts.items():
        machine = Machine("card", float(gibibytes * GIB), 1.0, 10**12)
        text = "\n".join(estimate_lines([task], disk, machine, notes=[], uncounted=parts))
        assert words in text
        assert "All stages fit" not in text
        assert all(f"Not counted: {part}." in text for part in parts)


def test_the_size_of_the_export_is_that_of_its_formats() -> None:
    kinds = {
        "block_out_channels": (32, 64, 64),
        "down_block_types": (*("CrossAttnDownBlock2D",) * 2, "DownBlock2D"),
        "up_block_types": ("UpBlock2D", *("CrossAttnUpBlock2D",) * 2),
    }
    shapes = Shapes({**SMALL.unet, **kinds}, SMALL.vae, 16, is_assumed=False)

    def size(*formats: str, architecture: str = "bk_small") -> int:
        params = _params(export__formats=["diffusers", *formats], student__architecture=architecture)
        return disk_bytes(params, shapes, num_pictures=1, is_linked=True)["export"]

    plain, tiny = size(), size(architecture="bk_tiny")
    teacher = plain + 2 * new_unet(shapes, torch.float32).num_parameters() - 2 * num_student_weights(_params(), shapes)
    assert size("lora") == plain
    assert size("single_file") == plain + plain + teacher
    assert size("single_file", architecture="bk_tiny") == tiny + 2 * tiny + teacher  # one of them with gaps
    onnx = size("onnx") - plain
    assert plain < onnx < 2 * plain  # fp32 instead of fp16, and no encoder of pictures
    assert size("onnx", "onnx_int8") == plain + onnx * 5 / 4


def test_the_memory_of_decoding_contains_what_the_optimizer_keeps_on_the_gpu() -> None:
    params = _params()
    weights = num_student_weights(params, SMALL)
    small = {"add__optimizer__ema_on_cpu": True, "add__optimizer__name": "adamw_8bit"}
    nothing, plain, least = (
        decoding("add", params, SMALL, num_pictures=1, optimizer=optimizer).peak_bytes
        for optimizer in (None, params.add.optimizer, _params(**small).add.optimizer)
    )
    assert plain - nothing == pytest.approx(16 * weights, abs=512)
    assert least - nothing == pytest.approx(6 * weights, abs=512)


def test_encoding_does_not_hold_the_u_net() -> None:
    wide = Shapes({**SMALL.unet, "block_out_channels": (320, 640)}, SMALL.vae, 16, is_assumed=False)
    peaks = [encoding("teacher", shapes, num_calls=1).peak_bytes for shapes in (SMALL, wide)]
    assert peaks[0] == peaks[1]


def test_the_memory_that_the_autoencoder_reserves_for_a_picture_is_enough_and_not_too_much() -> None:
    shapes = Shapes(
        SD15_UNET, {**SD15_VAE, "block_out_channels": (32, 64, 64, 64), "layers_per_block": 1}, 32, is_assumed=False
    )
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
    text = "\n".join(estimate_lines(tasks, {"pool": 2 * 10**9}, small, notes=["note"], uncounted=[]))
    assert "teacher: needs 14.6 GiB, but card has 12.0 GiB; to need less memory: raise accumulation_steps" in text
    assert "add: needs" not in text
    assert "100.0 h" in text
    assert "disk: needs 1.9 GiB, but 0.9 GiB are free" in text
    large = Machine("card", 24.0 * GIB, None, 10**12)
    text = "\n".join(estimate_lines(tasks, {"pool": 2 * 10**9}, large, notes=[], uncounted=[]))
    assert "All stages fit into the 24.0 GiB of card" in text
    assert "H100" in text


@pytest.mark.slow
@pytest.mark.parametrize("gigabytes", [8, 12, 16, 24, 80])
def test_a_preset_fits_its_card(gigabytes: int) -> None:
    tasks = list(all_tasks(_params(f"sd15-{gigabytes}gb"), SD15, num_pictures=1221))
    too_large = {stage: peak for stage, peak in stage_peaks(tasks).items() if peak > gigabytes * GIB}
    assert too_large == {}


@pytest.mark.parametrize(
    ("flops", "size", "shown"), [(1e12, 2 * MIB, "0.01 s"), (6e16, 3 * GIB, "10 min"), (9e18, 3 * GIB, "25.0 h")]
)
def test_small_figures_have_small_units(flops: float, size: float, shown: str) -> None:
    machine = Machine("card", None, 100.0, 10**12)
    lines = list(estimate_lines([Task("add", "train", 0, flops)], {"pool": int(size)}, machine, notes=[], uncounted=[]))
    assert shown in lines[1]
    assert any(("2 MiB" if size == 2 * MIB else "3.0 GiB") in line for line in lines)


def test_the_row_of_a_task_does_not_wait_for_the_next_task() -> None:
    def tasks() -> Iterator[Task]:
        yield Task("teacher", "train", 0, 1.0)
        raise AssertionError("the second task is computed")

    lines = estimate_lines(tasks(), {}, Machine("card", None, 1.0, 1), notes=[], uncounted=[])
    assert next(lines).startswith("stage")
    assert next(lines).startswith("teacher")
