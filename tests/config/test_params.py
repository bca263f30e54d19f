"""Every mistake in params.yaml is reported by its dotted key before any work is done."""

import copy
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from ruamel.yaml import YAML

from naruto_add.config.constants import CLIP_L14
from naruto_add.config.load import ParamsError, load_params, parse_params

ROOT = Path(__file__).parents[2]
PARAMS = ROOT / "params.yaml"
COMMIT = "0" * 40


@pytest.fixture
def mini() -> Any:
    return YAML(typ="safe").load(PARAMS)


def _with(values: Any, changes: Mapping[str, Any]) -> Any:
    """A copy with these values at these dotted keys."""
    changed = copy.deepcopy(values)
    for key, value in changes.items():
        *sections, name = key.split(".")
        inner = changed
        for section in sections:
            inner = inner[section]
        inner[name] = value
    return changed


def _keys(values: Any, prefix: str = "") -> list[str]:
    """All keys, sections included."""
    keys = []
    for name, value in values.items():
        keys.append(f"{prefix}{name}")
        if isinstance(value, dict):
            keys += _keys(value, f"{prefix}{name}.")
    return keys


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("add.adv_weight", -0.1, "add.adv_weight: -0.1"),
        ("add.adv_weight", float("nan"), "add.adv_weight: nan"),
        ("add.adv_weight", float("inf"), "add.adv_weight: inf"),
        ("add.adv_weight", "0.1", "add.adv_weight: '0.1'"),
        ("add.adv_weight", None, "add.adv_weight: None"),
        ("add.adv_weight", True, "add.adv_weight: True"),
        ("add.num_steps", 1.5, "add.num_steps: 1.5"),
        ("add.num_steps", 0, "add.num_steps: 0"),
        ("add.typo", 1, "add.typo: 1 is not a parameter"),
        ("add.optimizer.typo", 1, "add.optimizer.typo: 1 is not a parameter"),
        ("typo", {}, "typo: {} is not a parameter"),
        ("add", [], "add: []"),
        ("add.method", "gan", "add.method: 'gan'"),
        ("add.optimizer", "adamw", "add.optimizer: 'adamw'"),
        ("add.optimizer.name", "sgd", "add.optimizer.name: 'sgd'"),
        ("add.optimizer.schedule", "linear", "add.optimizer.schedule: 'linear'"),
        ("add.optimizer.ema_decay", 1.0, "add.optimizer.ema_decay: 1.0"),
        ("teacher.optimizer.learning_rate", 2.0, "teacher.optimizer.learning_rate: 2.0"),
        ("teacher.lora_rank", 0, "teacher.lora_rank: 0"),
        ("teacher.validation_prompts", [], "teacher.validation_prompts: []"),
        ("student.architecture", "bk_huge", "student.architecture: 'bk_huge'"),
        ("base.resolution_px", 65, "base.resolution_px: 65"),
        ("ingest.source", "web", "ingest.source: 'web'"),
        ("ingest.path", "", "ingest.path: ''"),
        ("ingest.max_rejected", 1.5, "ingest.max_rejected: 1.5"),
        ("sampling.student_steps", 0, "sampling.student_steps: 0"),
        ("sampling.teacher_steps", 1000, "sampling.teacher_steps: 1000"),
        ("evaluate.teacher_sweep", [4, 1000], "evaluate.teacher_sweep.1: 1000"),
        ("add.discriminators", [], "add.discriminators: []"),
        ("add.discriminator_fraction", 0.0, "add.discriminator_fraction: 0.0"),
        ("add.augment_strength", 1.5, "add.augment_strength: 1.5"),
        ("add.resolution_pool_size", 0, "add.resolution_pool_size: 0"),
        ("teacher.batch_size", 10**9, "teacher.batch_size: 1000000000"),
        ("student.pool_size", 10**12, "student.pool_size: 1000000000000"),
        ("ingest.num_drawings", 10**9, "ingest.num_drawings: 1000000000"),
        ("base.model", ["x" * 10**6], "base.model: ['xxx"),
    ],
)
def test_types_and_ranges_are_checked(mini: Any, key: str, value: Any, message: str) -> None:
    with pytest.raises(ParamsError, match=re.escape(message)):
        parse_params(_with(mini, {key: value}))


CONTRADICTIONS: list[tuple[dict[str, Any], dict[str, Any], str]] = [
    (
        {"ingest.num_drawings": 20},
        {"ingest.num_drawings": 19},
        "ingest.num_drawings: 19 is too few; use at least 20",
    ),
    (
        {"ingest.source": "hub", "ingest.hub_dataset": "owner/name", "ingest.revision": COMMIT},
        {"ingest.hub_dataset": ""},
        "ingest.hub_dataset: '' is empty; ingest.source hub needs a data set",
    ),
    (
        {"ingest.source": "hub", "ingest.hub_dataset": "owner/name", "ingest.revision": COMMIT},
        {"ingest.revision": ""},
        "ingest.revision: '' is not a commit",
    ),
    (
        {"ingest.source": "hub", "ingest.hub_dataset": "owner/name", "ingest.revision": COMMIT},
        {"ingest.revision": COMMIT[1:]},
        f"ingest.revision: '{COMMIT[1:]}' is not a commit, which has 40 hexadecimal digits",
    ),
    (
        {"ingest.validation_fraction": 0.3, "ingest.test_fraction": 0.4},
        {"ingest.test_fraction": 0.49, "ingest.validation_fraction": 0.4},
        "ingest.test_fraction: 0.49 and ingest.validation_fraction 0.4 leave less than 0.2",
    ),
    (
        {"base.prompt_template": "a picture of {caption}"},
        {"base.prompt_template": "a picture"},
        "base.prompt_template: 'a picture' must contain {caption} exactly once",
    ),
    (
        {"samples.steps": [3, 7, 1000]},
        {"samples.steps": [103]},
        "samples.steps: sampling.student_scheduler ddim cannot take 103 steps; use a divisor of 1000",
    ),
    (
        {"evaluate.student_sweep": [1, 60]},
        {"evaluate.student_sweep": [1, 61]},
        "evaluate.student_sweep: sampling.student_scheduler ddim cannot take 61 steps; use a divisor of 1000",
    ),
    (
        {"sampling.pool_steps": 12},
        {"sampling.pool_steps": 61},
        "sampling.pool_steps: DPM-Solver++ cannot take 61 steps; use a divisor of 1000",
    ),
    (
        {"sampling.pool_steps": 12, "sampling.student_steps": 3},
        {"sampling.pool_steps": 10, "sampling.student_steps": 4},
        "sampling.pool_steps: 10 steps do not include the student's timesteps [999, 749, 499, 249]; use a multiple of",
    ),
    (
        {"add.method": "consistency"},
        {"sampling.student_steps": 3, "sampling.pool_steps": 12},
        "sampling.student_steps: 3 does not divide the 40 DDIM steps of add.method consistency",
    ),
    (
        {"add.optimizer.warmup_steps": 159},
        {"add.optimizer.warmup_steps": 160},
        "add.optimizer.warmup_steps: 160 is not below add.num_steps (160)",
    ),
    (
        {"teacher.accumulation_steps": 4},
        {"teacher.accumulation_steps": 3},
        "teacher.accumulation_steps: 3 does not divide teacher.batch_size (16)",
    ),
    (
        {"add.discriminators": ["latent", "pixel"]},
        {"add.discriminators": ["latent", "latent"]},
        "add.discriminators: ['latent', 'latent'] contains a value twice",
    ),
    (
        {"add.discriminator_blocks": ["mid_block", "up_blocks.0"]},
        {"add.discriminator_blocks": ["mid_block", "mid_block"]},
        "add.discriminator_blocks: ['mid_block', 'mid_block'] contains a value twice",
    ),
    (
        {"add.discriminator_timesteps": [10, 250]},
        {"add.discriminator_timesteps": [10, 250, 10]},
        "add.discriminator_timesteps: [10, 250, 10] contains a value twice",
    ),
    (
        {"add.adv_start_steps": 120, "add.adv_ramp_steps": 40},
        {"add.adv_ramp_steps": 41},
        "add.adv_ramp_steps: 41 after add.adv_start_steps (120) ends after add.num_steps (160)",
    ),
    (
        {"add.batch_size": 8},
        {"add.batch_size": 6},
        "add.batch_size: add.discriminator_fraction 0.5 of 6 leaves 3 items for the discriminator",
    ),
    (
        {"add.resolutions_px": [96, "128x64", "64x128"]},
        {"add.resolutions_px": ["96by64"]},
        "add.resolutions_px: '96by64' is neither a side nor WIDTHxHEIGHT",
    ),
    (
        {"add.resolutions_px": [32, 1024]},
        {"add.resolutions_px": [100]},
        "add.resolutions_px: 100 has a side that is not allowed; use multiples of 8 from 32 to 1024",
    ),
    (
        {"add.resolutions_px": ["64x32"]},
        {"add.resolutions_px": ["64x24"]},
        "add.resolutions_px: '64x24' has a side that is not allowed",
    ),
    (
        {"add.resolutions_px": [96, "96x128"]},
        {"add.resolutions_px": [96, "96x96"]},
        "add.resolutions_px: [96, '96x96'] repeats a size",
    ),
    (
        {"add.resolutions_px": [96]},
        {"add.resolutions_px": [64]},
        "add.resolutions_px: [64] repeats a size or base.resolution_px",
    ),
    (
        {"add.pixel_backbone": "dinov2_small", "add.score_backbone": "efficientnet_lite2"},
        {"add.score_backbone": "dinov2_small"},
        "add.score_backbone: 'dinov2_small' is also add.pixel_backbone",
    ),
    (
        {"evaluate.num_images": 2},
        {"evaluate.num_images": 1},
        "evaluate.num_images: 1 picture has no distribution",
    ),
    (
        {"export.formats": ["diffusers", "lora"]},
        {"export.formats": ["lora"]},
        "export.formats: ['lora'] lacks diffusers",
    ),
    (
        {"export.formats": ["diffusers", "lora"]},
        {"export.formats": ["diffusers", "lora", "lora"]},
        "export.formats: ['diffusers', 'lora', 'lora'] contains a value twice",
    ),
    (
        {"export.formats": ["diffusers", "onnx", "onnx_int8"]},
        {"export.formats": ["diffusers", "onnx_int8"]},
        "export.formats: ['diffusers', 'onnx_int8'] lacks onnx, which onnx_int8 is made from",
    ),
    (
        {"export.formats": ["diffusers", "onnx", "demo"]},
        {"export.formats": ["diffusers", "demo"]},
        "export.formats: ['diffusers', 'demo'] lacks onnx, which demo is made from",
    ),
    (
        {"export.formats": ["diffusers", "onnx", "demo"]},
        {"base.caption_chunks": 2},
        "export.formats: demo encodes prompts in one chunk only, and base.caption_chunks is 2; leave demo out",
    ),
    (
        {"export.formats": ["diffusers", "onnx"]},
        {"sampling.student_scheduler": "lcm", "student.knowledge_steps": 550},
        "export.formats: onnx cannot add noise between steps, as sampling.student_scheduler lcm does",
    ),
]


@pytest.mark.parametrize(("valid", "change", "message"), CONTRADICTIONS)
def test_contradictions_between_values_are_reported(
    mini: Any, valid: dict[str, Any], change: dict[str, Any], message: str
) -> None:
    """With the first changes the parameters are valid; the others on top make the contradiction."""
    parse_params(_with(mini, valid))
    with pytest.raises(ParamsError, match=re.escape(message)):
        parse_params(_with(mini, valid | change))


@pytest.mark.parametrize(
    ("evaluation", "key"),
    [
        ({"evaluate.clip_score": f"{CLIP_L14.split('@')[0]}@other"}, "evaluate.clip_score"),
        ({"evaluate.features": "clip"}, "evaluate.features"),
    ],
)
def test_a_student_is_not_measured_by_the_clip_model_that_trained_it(
    mini: Any, evaluation: dict[str, str], key: str
) -> None:
    evaluated = _with(mini, evaluation | {"add.image_text_network": CLIP_L14})
    parse_params(evaluated)  # add.image_text_weight is 0, so it trains nothing
    with pytest.raises(ParamsError, match=rf"add\.image_text_network: .* is also the network of {re.escape(key)}"):
        parse_params(_with(evaluated, {"add.image_text_weight": 0.5}))


@pytest.mark.parametrize(
    ("key", "value"),
    [("sampling.student_steps", 3), ("evaluate.student_sweep", [1, 2, 3]), ("samples.steps", [4, 3])],
)
def test_the_lcm_sampler_takes_only_divisors_of_1000(mini: Any, key: str, value: Any) -> None:
    parse_params(_with(mini, {"sampling.pool_steps": 12, key: value}))
    lcm = {
        "sampling.student_scheduler": "lcm",
        "sampling.pool_steps": 20,
        "student.knowledge_steps": mini["student"]["num_steps"],
    }
    parse_params(_with(mini, lcm))
    message = f"{key}: sampling.student_scheduler lcm cannot take 3 steps; use a divisor of 1000, or ddim"
    with pytest.raises(ParamsError, match=f"^{re.escape(message)}$"):
        parse_params(_with(mini, lcm | {key: value}))


def test_the_lcm_sampler_excludes_trajectory_distillation(mini: Any) -> None:
    num_steps = mini["student"]["num_steps"]
    message = rf"^student\.knowledge_steps: 0 leaves the rest .* sampling\.student_scheduler lcm .*; use {num_steps}$"
    with pytest.raises(ParamsError, match=message):
        parse_params(_with(mini, {"sampling.student_scheduler": "lcm"}))


def test_every_key_is_required(mini: Any) -> None:
    for key in _keys(mini):
        changed = copy.deepcopy(mini)
        *sections, name = key.split(".")
        inner = changed
        for section in sections:
            inner = inner[section]
        del inner[name]
        with pytest.raises(ParamsError, match=f"^{re.escape(key)}: missing"):
            parse_params(changed)


def test_all_mistakes_are_reported_at_once(mini: Any) -> None:
    with pytest.raises(ParamsError, match=r"(?s)teacher\.lora_rank.*add\.num_steps"):
        parse_params(_with(mini, {"add.num_steps": 0, "teacher.lora_rank": "many"}))
    with pytest.raises(ParamsError, match=r"(?s)base\.prompt_template.*evaluate\.num_images"):
        parse_params(_with(mini, {"evaluate.num_images": 1, "base.prompt_template": "none"}))


@pytest.mark.parametrize("content", ["", "[1, 2]", "add: {", "\x00"])
def test_other_files_are_refused(tmp_path: Path, content: str) -> None:
    path = tmp_path / "params.yaml"
    path.write_text(content)
    with pytest.raises(ParamsError):
        load_params(path)


@pytest.mark.parametrize("value", ["2026-13-45", "9" * 5000, "2026-02-30T25:61:61"])
def test_dates_that_no_calendar_has_and_endless_numbers_are_one_sentence(tmp_path: Path, value: str) -> None:
    path = tmp_path / "params.yaml"
    path.write_text(re.sub(r"num_drawings: \S+", f"num_drawings: {value}", PARAMS.read_text()))
    with pytest.raises(ParamsError, match=r"params\.yaml: a value cannot be read|ingest\.num_drawings") as caught:
        load_params(path)
    assert len(str(caught.value)) < 1000


def test_a_number_that_python_does_not_print_is_refused(mini: Any) -> None:
    with pytest.raises(ParamsError, match=r"add\.num_steps: this number is not allowed"):
        parse_params(_with(mini, {"add.num_steps": 10**5000}))


def test_a_missing_file_is_reported_with_its_remedy(tmp_path: Path) -> None:
    with pytest.raises(ParamsError, match=r"no such file; `naruto-add profile use mini` writes params\.yaml"):
        load_params(tmp_path / "params.yaml")


def test_numbers_as_dvc_writes_them_are_numbers(tmp_path: Path) -> None:
    """DVC writes `-S add.r1_weight=1e-6` as 1e-06, which YAML 1.1 reads as text."""
    path = tmp_path / "params.yaml"
    path.write_text(re.sub(r"r1_weight: \S+", "r1_weight: 1e-06", PARAMS.read_text()))
    assert load_params(path).add.r1_weight == 1e-6


def test_the_students_timesteps_follow_from_their_number(mini: Any) -> None:
    assert parse_params(mini).sampling.student_timesteps == [999, 749, 499, 249]
    assert parse_params(_with(mini, {"sampling.student_steps": 2})).sampling.student_timesteps == [999, 499]
