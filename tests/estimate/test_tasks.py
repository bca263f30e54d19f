"""The computed memory changes with the parameters as it must; the presets for SD 1.5 fit (slow)."""

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from ruamel.yaml import YAML

from naruto_add.config.load import parse_params
from naruto_add.config.profiles import compose_profile
from naruto_add.config.schema import Params
from naruto_add.diffusion.placement import picture_bytes
from naruto_add.estimate.add import add_tasks, train_task
from naruto_add.estimate.add_parts import parts_of_batch
from naruto_add.estimate.disk import Disk, disk_by_stage, largest_disk
from naruto_add.estimate.drawing import decoding, encoding
from naruto_add.estimate.evaluation import evaluate_tasks, export_tasks
from naruto_add.estimate.fake import measuring
from naruto_add.estimate.machine import Machine
from naruto_add.estimate.networks import (
    SD2_TEXT,
    SD15_TEXT,
    SD15_UNET,
    SD15_VAE,
    Shapes,
    new_text_encoder,
    new_unet,
    new_vae,
    shapes_of,
)
from naruto_add.estimate.report import estimate_lines, stage_peaks
from naruto_add.estimate.student import student_tasks, warm_up_task
from naruto_add.estimate.task import Task, num_student_weights
from naruto_add.estimate.tasks import all_tasks, uncounted
from naruto_add.estimate.teacher import teacher_tasks
from naruto_add.runtime.units import GIB, MIB
from naruto_add.training.add.batch import discriminator_weights, renoised_weights
from tests.sd15_checkpoint import write_checkpoint

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


def test_the_warm_up_has_only_phases_with_steps() -> None:
    def phases(knowledge_steps: int) -> list[str]:
        params = _params(student__knowledge_steps=knowledge_steps)
        return [task.name for task in student_tasks(params, SMALL) if "distillation" in task.name]

    num_steps = _params().student.num_steps
    assert [len(phases(knowledge_steps)) for knowledge_steps in (0, 1, num_steps)] == [1, 2, 1]
    assert phases(num_steps) + phases(0) == phases(1)


def test_an_average_on_the_cpu_saves_four_bytes_a_weight_and_8_bit_adamw_six() -> None:
    weights = num_student_weights(SMALL, "bk_small")
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
    train = train_task(_params(**blocks), SMALL)
    student = num_student_weights(SMALL, "bk_small")
    teacher = new_unet(SMALL, torch.bfloat16).num_parameters()
    assert train.peak_bytes > 20 * student + 2 * teacher  # weights, gradients, two averages of AdamW, moving average
    assert train.flops > 0


def test_what_has_no_weight_is_not_counted_and_decoded_crops_are() -> None:
    plain, without_renoised, with_pictures = (
        train_task(_params(add__discriminator_blocks=["mid_block"], **changes), SMALL)
        for changes in (
            {},
            {"add__renoised_weight": 0.0},
            {"add__discriminators": ["latent", "pixel"], "add__pixel_backbone": "efficientnet_lite0"},
        )
    )
    assert without_renoised.flops < plain.flops < with_pictures.flops
    assert plain.peak_bytes < with_pictures.peak_bytes


def test_without_a_latent_discriminator_the_teachers_features_are_not_counted() -> None:
    blocks = {"add__discriminator_blocks": ["mid_block"]}
    both, pixel = (
        train_task(_params(**blocks, add__discriminators=names, add__pixel_backbone="efficientnet_lite0"), SMALL)
        for names in (["latent", "pixel"], ["pixel"])
    )
    assert pixel.flops < both.flops and pixel.peak_bytes < both.peak_bytes


def test_the_heads_have_no_moving_average() -> None:
    """So only the student's weights are saved by an average on the CPU."""
    blocks = {"add__discriminator_blocks": ["down_blocks.0", "mid_block"]}
    on_gpu, on_cpu = (train_task(_params(**blocks, add__optimizer__ema_on_cpu=value), SMALL) for value in (False, True))
    assert on_gpu.peak_bytes - on_cpu.peak_bytes == pytest.approx(4 * num_student_weights(SMALL, "bk_small"), abs=2**17)


def test_the_parts_of_a_batch_have_the_items_that_the_training_gives_them() -> None:
    for accumulation_steps in (1, 4, 16):
        add = _params(add__accumulation_steps=accumulation_steps).add
        parts = parts_of_batch(add)
        assert sum(parts.values()) == accumulation_steps
        for name, weights in {"shown": discriminator_weights(add), "renoised": renoised_weights(add)}.items():
            assert sum(getattr(part, name) * number for part, number in parts.items()) == int((weights > 0).sum())


def test_small_parts_have_no_renoised_loss_that_the_batch_does_not_have() -> None:
    """Of 16 parts of one item, 4 have a renoised loss; the operations are those of the batch as a whole."""
    blocks = {"add__discriminator_blocks": ["down_blocks.0"]}
    whole, ones = (train_task(_params(**blocks, add__accumulation_steps=number), SMALL) for number in (1, 16))
    assert ones.flops == pytest.approx(whole.flops, rel=0.05)  # the guided batch has one unguided prediction of ""


def test_networks_of_losses_and_discriminators_on_crops_are_counted() -> None:
    blocks = {"add__discriminator_blocks": ["mid_block"], "add__discriminators": ["pixel"]}
    network = {"add__image_text_network": "caption_match"}
    costs = [
        train_task(_params(**blocks, **network, **changes, add__pixel_backbone="efficientnet_lite0"), SMALL)
        for changes in ({}, {"add__perceptual_weight": 0.5}, {"add__image_text_weight": 0.5})
    ]
    assert costs[0].flops < min(costs[1].flops, costs[2].flops)
    assert costs[0].peak_bytes < min(costs[1].peak_bytes, costs[2].peak_bytes)


@pytest.mark.slow
def test_the_networks_that_measure_stay_in_memory_while_evaluate_draws() -> None:
    embedded = {"evaluate__features": "embedded", "evaluate__perceptual": "embedded"}
    drawn, measured = [], []
    for clip_score in ("off", "openai/clip-vit-large-patch14@" + "0" * 40):
        tasks = list(evaluate_tasks(_params(**embedded, evaluate__clip_score=clip_score), SMALL, 10))
        drawn.append(_peak(tasks, "draw with the teacher"))
        measured.append(next(task for task in tasks if task.name.startswith("measure")))
    clip_bytes = 427_616_513 * 4
    assert drawn[1] - drawn[0] == pytest.approx(clip_bytes, rel=1e-3)
    assert measured[1].peak_bytes > clip_bytes
    assert measured[1].flops > measured[0].flops


@pytest.mark.slow
def test_every_picture_is_measured_once_by_each_network() -> None:
    embedded = {"evaluate__features": "embedded", "evaluate__perceptual": "embedded", "evaluate__clip_score": "off"}
    few, many = (
        next(task for task in evaluate_tasks(_params(**embedded), SMALL, number) if task.name.startswith("measure"))
        for number in (100, 200)
    )
    assert 1.5 * few.flops < many.flops < 2 * few.flops  # the sweep has 64 captions in both cases


@pytest.mark.slow
def test_the_training_of_the_attribute_classifier_is_counted() -> None:
    embedded = {"evaluate__features": "embedded", "evaluate__perceptual": "embedded", "evaluate__clip_score": "off"}
    names = [
        [task.name for task in evaluate_tasks(_params(**embedded, evaluate__classifier_steps=steps), SMALL, 10)]
        for steps in (0, 100)
    ]
    assert set(names[1]) - set(names[0]) == {"train the attribute classifier"}


@pytest.mark.slow
def test_validations_of_the_teacher_draw_every_prompt() -> None:
    few, many = (
        next(
            task
            for task in teacher_tasks(_params(teacher__validation_prompts=["a man"] * number), SMALL, 10)
            if task.name.startswith("validate")
        )
        for number in (1, 64)
    )
    assert few.peak_bytes < many.peak_bytes
    assert few.flops < many.flops


@pytest.mark.slow
def test_a_student_is_sampled_beside_its_training_state_and_a_copy() -> None:
    weights = num_student_weights(SMALL, "bk_small")
    plain, on_cpu = (
        _peak(student_tasks(_params(student__optimizer__ema_on_cpu=value), SMALL), "sample for a validation")
        for value in (False, True)
    )
    assert plain - on_cpu == 8 * weights  # the moving average, and the weights whose place it takes
    assert on_cpu > 16 * weights  # weights, AdamW's averages, and a copy before it is rounded


@pytest.mark.slow
def test_the_score_network_of_add_is_counted() -> None:
    blocks = {"add__discriminator_blocks": ["mid_block"]}
    tasks = {
        name: list(add_tasks(_params(**blocks, add__score_backbone=name), SMALL, 10))
        for name in ("efficientnet_lite2", "dinov2_small")
    }
    scores = {name: next(task for task in items if task.name.startswith("score")) for name, items in tasks.items()}
    assert scores["efficientnet_lite2"].flops < scores["dinov2_small"].flops
    assert _peak(tasks["efficientnet_lite2"], "sample") < _peak(tasks["dinov2_small"], "sample")


@pytest.mark.slow
def test_the_distillation_of_a_tiny_decoder_grows_with_its_steps() -> None:
    without, few, many, given = (
        sum(task.flops for task in export_tasks(_params(**changes), SMALL, 100))
        for changes in (
            {},
            {"export__tiny_decoder": "distilled", "export__tiny_decoder_steps": 10},
            {"export__tiny_decoder": "distilled", "export__tiny_decoder_steps": 20},
            {"export__tiny_decoder": "owner/taesd@" + "0" * 40},
        )
    )
    assert without < given < few < many


def test_every_part_that_is_not_counted_is_named_and_the_verdict_says_at_least() -> None:
    assert uncounted(_params()) == []
    changes = {
        "teacher__lora_text_encoder": True,
        "add__image_text_network": "caption_match",
        "add__resolutions_px": [256],
    }
    keys = [key.replace("__", ".") for key in changes]
    parts = uncounted(_params(**changes, add__image_text_weight=0.5))
    assert len(parts) == len(keys)
    assert all(key in part for key, part in zip(keys, parts, strict=True))

    task, disk = Task("add", "train", 15 * GIB, 1.0), Disk("add", {"pool": 1})
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
        disks = disk_by_stage(params, shapes, num_pictures=1, is_linked=True)
        return next(disk.files["export"] for disk in disks if disk.stage == "export")

    plain, tiny = size(), size(architecture="bk_tiny")
    teacher = plain + 2 * new_unet(shapes, torch.float32).num_parameters() - 2 * num_student_weights(shapes, "bk_small")
    assert size("lora") == plain
    assert size("single_file") == plain + plain + teacher
    assert size("single_file", architecture="bk_tiny") == tiny + 2 * tiny + teacher  # one of them with gaps
    onnx = size("onnx") - plain
    assert plain < onnx < 2 * plain  # fp32 instead of fp16, and no encoder of pictures
    assert size("onnx", "onnx_int8") == plain + onnx * 5 / 4


def test_what_else_is_in_memory_is_added_to_encoding_and_decoding() -> None:
    for task in (
        lambda others: encoding("add", SMALL, num_calls=1, others=others),
        lambda others: decoding("add", SMALL, num_pictures=1, others=others),
    ):
        assert task(MIB).peak_bytes - task(0).peak_bytes == MIB


def test_a_decoder_in_half_precision_needs_half_of_the_memory() -> None:
    exact, halved = (decoding("add", SMALL, num_pictures=1, others=0, is_halved=value) for value in (False, True))
    assert 0.4 * exact.peak_bytes < halved.peak_bytes < 0.8 * exact.peak_bytes
    assert exact.flops == halved.flops


def test_the_text_encoder_is_the_base_models_own(tmp_path: Path) -> None:
    """One of Stable Diffusion 2.1 is wider and deeper than CLIP ViT-L/14's, whether its file is here or not."""
    folder = write_checkpoint(tmp_path / "second", is_second=True)
    base = _params().base.model_copy(update={"model": str(folder), "revision": "", "resolution_px": 64})
    config = json.loads((folder / "text_encoder/config.json").read_text())
    assert shapes_of(base).text == config
    (folder / "text_encoder/config.json").unlink()
    assert shapes_of(base).text["num_hidden_layers"] == 12
    unet = json.loads((folder / "unet/config.json").read_text()) | {"cross_attention_dim": 1024}
    (folder / "unet/config.json").write_text(json.dumps(unet))
    assert (shapes_of(base).text["hidden_size"], shapes_of(base).text["num_hidden_layers"]) == (1024, 23)


@pytest.mark.slow
def test_the_text_encoder_of_sd_2_1_has_its_published_number_of_weights() -> None:
    with measuring():
        encoders = [new_text_encoder(replace(SD15, text=text), torch.float32) for text in (SD15_TEXT, SD2_TEXT)]
        counts = [sum(item.numel() for item in encoder.parameters()) for encoder in encoders]
    assert counts == [123_060_480, 340_387_840]


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
        largest_disk(each, SMALL, num_pictures=100, is_linked=is_linked).total
        for each, is_linked in ((params, False), (_params(student__pool_size=16384), False), (params, True))
    )
    samples = 8192 * 5 * 4 * 16 * 16 * 4  # noise, three states and x0
    assert larger - plain == 3 * samples  # DVC keeps a copy, and experiments share another
    assert linked < 0.8 * plain


def test_the_peak_of_disk_has_no_results_of_later_stages_and_no_checkpoint_of_earlier_ones() -> None:
    disks = {disk.stage: disk.files for disk in disk_by_stage(_params(), SMALL, num_pictures=100, is_linked=False)}
    assert "export" not in disks["add"] and "distilled student" not in disks["add"]
    assert "checkpoints" not in disks["export"] and "drawn pictures" in disks["export"]
    assert disks["add"]["checkpoints"] == 40 * num_student_weights(SMALL, "bk_small")
    stored = ("data set", "teacher", "pool", "student before ADD")
    assert disks["add"]["DVC's copies of results"] == sum(disks["add"][name] for name in stored)


def test_the_report_says_what_does_not_fit_and_what_to_change() -> None:
    tasks = [
        Task("teacher", "train, parts of 8", 15 * 10**9, 36e18),
        Task("add", "train, parts of 4", 5 * 10**9, 36e17),
    ]
    small = Machine("card", 12.0 * GIB, 100.0, 10**9)
    text = "\n".join(estimate_lines(tasks, Disk("add", {"pool": 2 * 10**9}), small, notes=["note"], uncounted=[]))
    assert "teacher: needs 14.6 GiB, but card has 12.0 GiB; to need less memory: raise accumulation_steps" in text
    assert "add: needs" not in text
    assert "100.0 h" in text
    assert "disk: needs 1.9 GiB, but 0.9 GiB are free" in text
    large = Machine("card", 24.0 * GIB, None, 10**12)
    text = "\n".join(estimate_lines(tasks, Disk("add", {"pool": 2 * 10**9}), large, notes=[], uncounted=[]))
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
    tasks, disk = [Task("add", "train", 0, flops)], Disk("add", {"pool": int(size)})
    lines = list(estimate_lines(tasks, disk, machine, notes=[], uncounted=[]))
    assert shown in lines[1]
    assert any(("2 MiB" if size == 2 * MIB else "3.0 GiB") in line for line in lines)


def test_the_row_of_a_task_does_not_wait_for_the_next_task() -> None:
    def tasks() -> Iterator[Task]:
        yield Task("teacher", "train", 0, 1.0)
        raise AssertionError("the second task is computed")

    lines = estimate_lines(tasks(), Disk("add", {}), Machine("card", None, 1.0, 1), notes=[], uncounted=[])
    assert next(lines).startswith("stage")
    assert next(lines).startswith("teacher")
