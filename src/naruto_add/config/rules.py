"""Rules that concern several parameters at once. The range of a single parameter is its type, in `schema`."""

import re
from collections.abc import Mapping, Sequence
from typing import Any

from naruto_add.config.constants import (
    CAPTION_MATCH,
    CLIP_L14,
    CONSISTENCY_STEPS,
    NUM_TRAIN_TIMESTEPS,
    Resolution,
    sides_px,
    trailing_timesteps,
)
from naruto_add.config.schema import Add, Base, Export, Ingest, Params

MIN_DISCRIMINATOR_ITEMS = 4
"""Real and fake pictures per step; with fewer, the discriminator's gradient is mostly noise."""
MIN_DRAWINGS = 20
MIN_TRAIN_FRACTION = 0.2
SIDES_PX = range(32, 1025, 8)
"""Allowed values of `base.resolution_px` and of every side in `add.resolutions_px`."""


def contradictions(params: Params) -> list[str]:
    """A message for each contradiction, with the key, the value and the remedy."""
    return [
        *_ingest_problems(params.ingest),
        *_template_problems(params.base),
        *_step_count_problems(params),
        *_length_problems(params),
        *_warmup_problems(params),
        *_add_problems(params.add),
        *_resolution_problems(params),
        *_network_problems(params),
        *_evaluate_problems(params),
        *_export_problems(params.export, params.sampling.student_scheduler),
        *_chunk_problems(params),
    ]


def is_commit(revision: str) -> bool:
    """Whether the revision of a hub repository is a commit's whole hash, which always names the same files."""
    return re.fullmatch(r"[0-9a-f]{40}", revision) is not None


def _ingest_problems(ingest: Ingest) -> list[str]:
    problems = []
    if ingest.source == "shinobi" and ingest.num_drawings < MIN_DRAWINGS:
        problems.append(f"ingest.num_drawings: {ingest.num_drawings} is too few; use at least {MIN_DRAWINGS}")
    if ingest.captions == "constant" and not ingest.caption.strip():
        problems.append("ingest.caption: '' is empty; ingest.captions constant gives it to every picture")
    if ingest.captions != "auto" and ingest.source != "folder":
        problems.append(
            f"ingest.captions: {ingest.captions} is for ingest.source folder, not {ingest.source}; use auto"
        )
    if ingest.source == "hub" and not ingest.hub_dataset:
        problems.append("ingest.hub_dataset: '' is empty; ingest.source hub needs a data set, such as owner/name")
    if ingest.source == "hub" and not is_commit(ingest.revision):
        problems.append(
            f"ingest.revision: {ingest.revision!r} is not a commit, which has 40 hexadecimal digits; pin the hub data "
            "set at one from its page"
        )
    if ingest.validation_fraction + ingest.test_fraction >= 1 - MIN_TRAIN_FRACTION:
        problems.append(
            f"ingest.test_fraction: {ingest.test_fraction} and ingest.validation_fraction "
            f"{ingest.validation_fraction} leave less than {MIN_TRAIN_FRACTION} of the pictures for training; lower one"
        )
    return problems


def _template_problems(base: Base) -> list[str]:
    if base.prompt_template.count("{caption}") != 1:
        return [f"base.prompt_template: {base.prompt_template!r} must contain {{caption}} exactly once"]
    return []


def _step_count_problems(params: Params) -> list[str]:
    """Step counts for which a sampler would leave out the noisiest timestep or take one step too many."""
    sampling, kind = params.sampling, params.sampling.student_scheduler
    student: Mapping[str, Sequence[int]] = {
        "sampling.student_steps": [sampling.student_steps],
        "evaluate.student_sweep": params.evaluate.student_sweep,
        "samples.steps": params.samples.steps,
    }
    remedy = f"use a divisor of {NUM_TRAIN_TIMESTEPS}"
    problems = [
        f"{key}: sampling.student_scheduler {kind} cannot take {num_steps} steps; {remedy}"
        + (", or ddim" if kind == "lcm" else "")
        for key, numbers in student.items()
        for num_steps in numbers
        if not _is_possible(kind, num_steps)
    ]
    if not _is_possible("ddim", sampling.pool_steps):
        problems.append(f"sampling.pool_steps: DPM-Solver++ cannot take {sampling.pool_steps} steps; {remedy}")
    if problems:
        return problems
    return [*_pool_step_problems(params), *_consistency_problems(params)]


def _is_possible(kind: str, num_steps: int) -> bool:
    """LCM rounds its stride down; the other samplers take a step too many at some step counts, because of rounding."""
    if kind == "lcm":
        return NUM_TRAIN_TIMESTEPS % num_steps == 0
    return len(trailing_timesteps(num_steps)) == num_steps


def _pool_step_problems(params: Params) -> list[str]:
    """The pool contains the teacher's states at the student's timesteps, so the teacher's steps must include these."""
    sampling = params.sampling
    if set(sampling.student_timesteps) <= set(trailing_timesteps(sampling.pool_steps)):
        return []
    problem = f"sampling.pool_steps: {sampling.pool_steps} steps do not include the student's timesteps"
    remedy = f"use a multiple of sampling.student_steps ({sampling.student_steps})"
    return [f"{problem} {sampling.student_timesteps}; {remedy}"]


def _consistency_problems(params: Params) -> list[str]:
    """A consistency student has to be trained at the timesteps that it is sampled at."""
    num_steps = params.sampling.student_steps
    if params.add.method != "consistency" or CONSISTENCY_STEPS % num_steps == 0:
        return []
    problem = f"does not divide the {CONSISTENCY_STEPS} DDIM steps of add.method consistency"
    return [f"sampling.student_steps: {num_steps} {problem}; use 1, 2, 4, 5, 8, 10, 20 or 40"]


def _length_problems(params: Params) -> list[str]:
    problems = []
    for name, section in (("teacher", params.teacher), ("student", params.student), ("add", params.add)):
        warmup_steps = section.optimizer.warmup_steps
        if section.num_steps and warmup_steps >= section.num_steps:
            problems.append(
                f"{name}.optimizer.warmup_steps: {warmup_steps} is not below {name}.num_steps ({section.num_steps}); "
                "use fewer"
            )
        if section.batch_size % section.accumulation_steps:
            problems.append(
                f"{name}.accumulation_steps: {section.accumulation_steps} does not divide {name}.batch_size "
                f"({section.batch_size}); use a divisor"
            )
    return problems


def _warmup_problems(params: Params) -> list[str]:
    """The trajectory part of the warm-up assumes that the student's sampler follows the teacher's trajectory."""
    student, scheduler = params.student, params.sampling.student_scheduler
    if student.knowledge_steps >= student.num_steps or scheduler == "ddim":
        return []
    problem = f"leaves the rest of student.num_steps ({student.num_steps}) to trajectory distillation"
    reason = "but sampling.student_scheduler lcm adds new noise between steps, which leaves the teacher's trajectory"
    return [f"student.knowledge_steps: {student.knowledge_steps} {problem}, {reason}; use {student.num_steps}"]


def _add_problems(add: Add) -> list[str]:
    problems = [
        f"add.{name}: {values} contains a value twice; list each once"
        for name, values in _distinct_lists(add).items()
        if len(set(values)) < len(values)
    ]
    if add.method != "adversarial":
        return problems
    if add.adv_start_steps + add.adv_ramp_steps > add.num_steps:
        problems.append(
            f"add.adv_ramp_steps: {add.adv_ramp_steps} after add.adv_start_steps ({add.adv_start_steps}) ends after "
            f"add.num_steps ({add.num_steps}); use fewer of either, or more steps"
        )
    num_items = round(add.batch_size * add.discriminator_fraction)
    if num_items < MIN_DISCRIMINATOR_ITEMS:
        problems.append(
            f"add.batch_size: add.discriminator_fraction {add.discriminator_fraction} of {add.batch_size} leaves "
            f"{num_items} items for the discriminator, which needs at least {MIN_DISCRIMINATOR_ITEMS}; raise either"
        )
    return problems


def _distinct_lists(add: Add) -> dict[str, list[Any]]:
    return {
        "discriminators": list(add.discriminators),
        "discriminator_blocks": add.discriminator_blocks,
        "discriminator_timesteps": add.discriminator_timesteps,
    }


def _resolution_problems(params: Params) -> list[str]:
    """Resolutions that are invalid or repeated."""
    add, key = params.add, "add.resolutions_px"
    problems = [f"{key}: {problem}" for each in add.resolutions_px if (problem := _size_problem(each))]
    if problems:
        return problems
    base = (params.base.resolution_px, params.base.resolution_px)
    sizes = [base, *(sides_px(each) for each in add.resolutions_px)]
    if len(set(sizes)) < len(sizes):
        problems.append(f"{key}: {add.resolutions_px} repeats a size or base.resolution_px, which is always included")
    return problems


def _size_problem(resolution: Resolution) -> str | None:
    try:
        sides = sides_px(resolution)
    except ValueError as error:
        return str(error)
    if all(side in SIDES_PX for side in sides):
        return None
    allowed = f"multiples of {SIDES_PX.step} from {SIDES_PX[0]} to {SIDES_PX[-1]}"
    return f"{resolution!r} has a side that is not allowed; use {allowed}"


def _network_problems(params: Params) -> list[str]:
    """Networks that are trained against and would also measure the result."""
    add = params.add
    if add.method != "adversarial":
        return []
    problems = []
    if "pixel" in add.discriminators and add.score_backbone == add.pixel_backbone:
        problems.append(
            f"add.score_backbone: {add.score_backbone!r} is also add.pixel_backbone, which the discriminator uses; "
            "choose another for either"
        )
    network = add.image_text_network
    if add.image_text_weight and network != CAPTION_MATCH:
        measuring = {"evaluate.clip_score": params.evaluate.clip_score}
        if params.evaluate.features == "clip":
            measuring["evaluate.features"] = CLIP_L14
        problems += [
            f"add.image_text_network: {network!r} is also the network of {key}; train with another CLIP model, or "
            "evaluate with another network"
            for key, other in measuring.items()
            if network.split("@")[0] == other.split("@")[0]
        ]
    return problems


def _evaluate_problems(params: Params) -> list[str]:
    if params.evaluate.num_images == 1:
        return ["evaluate.num_images: 1 picture has no distribution; use at least 2, or 0 for all test captions"]
    return []


def _chunk_problems(params: Params) -> list[str]:
    if params.base.caption_chunks > 1 and "demo" in params.export.formats:
        problem = f"demo encodes prompts in one chunk only, and base.caption_chunks is {params.base.caption_chunks}"
        return [f"export.formats: {problem}; leave demo out, or set base.caption_chunks to 1"]
    return []


def _export_problems(export: Export, scheduler: str) -> list[str]:
    if "diffusers" not in export.formats:
        return [f"export.formats: {export.formats} lacks diffusers, the folder that contains the others; add it"]
    if len(set(export.formats)) < len(export.formats):
        return [f"export.formats: {export.formats} contains a value twice; list each once"]
    for name in ("onnx_int8", "demo"):
        if name in export.formats and "onnx" not in export.formats:
            return [f"export.formats: {export.formats} lacks onnx, which {name} is made from; add it"]
    if "onnx" in export.formats and scheduler != "ddim":
        problem = f"onnx cannot add noise between steps, as sampling.student_scheduler {scheduler} does"
        return [f"export.formats: {problem}; leave onnx out, or use ddim"]
    return []
