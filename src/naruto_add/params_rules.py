"""What parameters must be to each other; the range of each by itself is its type, in `params`."""

from typing import Any

import numpy as np

from naruto_add.conventions import CAPTION_MATCH, CLIP_L14, NUM_TRAIN_TIMESTEPS, Resolution, sides_px
from naruto_add.params import Add, Params, Teacher

PROBABILITY_TOLERANCE = 1e-3
"""Thirds, written with three digits, still add up to 1."""


FEWEST_JUDGED = 4
"""Pictures of each kind in a step: fewer are all noise to a discriminator."""
SMALLEST_SQUARE_PX = 32
"""EfficientNet halves pictures five times."""
SIDES_PX = range(32, 1025, 8)
"""What `base.resolution_px` may be, and every side of `add.resolutions_px`."""


def contradictions(params: Params) -> list[str]:
    """A message for everything that cannot work, with key, value and remedy."""
    return [
        *_add_problems(params.add),
        *_pair_problems(params),
        *(_resolution_problems(params) or _scale_problems(params)),
        *_scheduler_problems(params),
        *_ingest_problems(params),
        *_template_problems(params.teacher),
        *_way_problems(params),
        *_length_problems(params),
        *_judge_problems(params),
    ]


def _add_problems(add: Add) -> list[str]:
    problems = [
        f"add.timesteps: {timestep} is not below num_train_timesteps ({NUM_TRAIN_TIMESTEPS})"
        for timestep in add.timesteps
        if timestep >= NUM_TRAIN_TIMESTEPS
    ]
    expected = trailing_timesteps(len(add.timesteps))
    if not problems and add.timesteps != expected:
        problems.append(
            f"add.timesteps: {add.timesteps} is not what a scheduler with {len(expected)} trailing steps visits; "
            f"use {expected}"
        )
    return [*problems, *_repetitions(add), *_phase_problems(add), *_solve_problems(add), *_consistency_problems(add)]


def _resolution_problems(params: Params) -> list[str]:
    """Sizes that are none, or that need pictures which `ingest` has not kept."""
    add, key = params.add, "add.resolutions_px"
    problems = [f"{key}: {problem}" for each in add.resolutions_px if (problem := _size_problem(each))]
    if problems:
        return problems
    sizes = [sides_px(each) for each in add.resolutions_px]
    if _repeats([(params.base.resolution_px, params.base.resolution_px), *sizes]):
        problems.append(f"{key}: {add.resolutions_px} names a size twice, or base.resolution_px, which is always there")
    if sizes and add.real_source != "teacher":
        problems.append(
            f"{key}: {add.resolutions_px} need real pictures of these sizes for add.real_source {add.real_source}; the "
            "data set has them at base.resolution_px only, and enlarged ones are blurred; use add.real_source teacher"
        )
    return problems


def _size_problem(resolution: Resolution) -> str | None:
    try:
        sides = sides_px(resolution)
    except ValueError as error:
        return str(error)
    if all(side in SIDES_PX for side in sides):
        return None
    span = f"{SIDES_PX.step} from {SIDES_PX[0]} to {SIDES_PX[-1]}"
    return f"{resolution!r} has a side that is no multiple of {span}; use such"


def _pair_problems(params: Params) -> list[str]:
    """Pairs of a picture with a noise that it does not come from, whose loss would ask for the mean of all pictures."""
    add = params.add
    has_pair_loss = add.method == "adversarial" and add.pair_weight > 0 and add.pair_target == "stored"
    if params.student.pool_source == "teacher" or not has_pair_loss:
        return []
    problem = f"{add.pair_weight} weighs pairs that student.pool_source dataset leaves meaningless"
    return [f"add.pair_weight: {problem}; use 0, or add.pair_target solve"]


def _scale_problems(params: Params) -> list[str]:
    """Squares that are averaged to less than the pixel discriminator's network can see."""
    add = params.add
    sides = [side for each in add.resolutions_px for side in sides_px(each)]
    side_px, scale = min(add.pixel_crop_px, params.base.resolution_px, *sides), max(add.discriminator_scales)
    if "pixel" not in add.discriminators or scale == 1 or side_px // scale >= SMALLEST_SQUARE_PX:
        return []
    problem = f"{scale} leaves {side_px // scale} px of squares of {side_px} px, fewer than {SMALLEST_SQUARE_PX}"
    return [f"add.discriminator_scales: {problem}; use a smaller scale or a larger add.pixel_crop_px"]


def _repetitions(add: Add) -> list[str]:
    lists: dict[str, list[Any]] = {
        "discriminators": list(add.discriminators),
        "discriminator_blocks": add.discriminator_blocks,
        "discriminator_scales": add.discriminator_scales,
        "discriminator_timesteps": add.discriminator_timesteps,
    }
    return [f"add.{name}: {each} names one twice; name it once" for name, each in lists.items() if _repeats(each)]


def _solve_problems(add: Add) -> list[str]:
    last = min(add.timesteps)
    if add.pair_target != "solve" or add.solve_steps <= last + 1:
        return []
    return [f"add.solve_steps: {add.solve_steps} steps do not fit below timestep {last}; use at most {last + 1}"]


def _consistency_problems(add: Add) -> list[str]:
    """A student that learns consistency is to learn it at the very timesteps that it is sampled at."""
    if add.method != "consistency":
        return []
    divisors = [number for number in range(1, NUM_TRAIN_TIMESTEPS + 1) if NUM_TRAIN_TIMESTEPS % number == 0]
    fitting = [number for number in divisors if set(add.timesteps) <= set(trailing_timesteps(number))]
    if add.consistency_steps in fitting:
        return []
    problem = f"{add.consistency_steps} equal steps from timestep {NUM_TRAIN_TIMESTEPS - 1} do not visit all of"
    return [f"add.consistency_steps: {problem} add.timesteps {add.timesteps}; use one of {fitting}"]


def _repeats(values: list[Any]) -> bool:
    return len(set(values)) < len(values)


def _phase_problems(add: Add) -> list[str]:
    key = "add.timestep_probabilities"
    problems = []
    for phase in add.timestep_probabilities:
        if len(phase) != len(add.timesteps):
            problems.append(f"{key}: {phase} needs one probability for each of add.timesteps {add.timesteps}")
        elif abs(sum(phase) - 1) > PROBABILITY_TOLERANCE:
            problems.append(f"{key}: {phase} adds up to {sum(phase):g}; probabilities add up to 1")
    if len(add.timestep_probabilities) > add.num_steps:
        problems.append(f"{key}: {len(add.timestep_probabilities)} phases do not fit into {add.num_steps} steps")
    return problems


def _scheduler_problems(params: Params) -> list[str]:
    """Numbers of steps at which the samplers would leave out the noisiest timestep, or take one too many."""
    kind = params.sampling.student_scheduler
    student = {
        "add.timesteps": [len(params.add.timesteps)],
        "evaluate.student_sweep": params.evaluate.student_sweep,
        "samples.steps": params.samples.steps,
    }
    remedy = f"use a divisor of {NUM_TRAIN_TIMESTEPS}" + (", or ddim" if kind == "lcm" else "")
    problems = [
        f"{key}: {num_steps} steps are not what sampling.student_scheduler {kind} can do; {remedy}"
        for key, numbers in student.items()
        for num_steps in numbers
        if not _can_do(kind, num_steps)
    ]
    if not _can_do("ddim", params.student.pool_steps):
        problems.append(
            f"student.pool_steps: {params.student.pool_steps} steps are not what DPM-Solver++ can do; "
            f"use a divisor of {NUM_TRAIN_TIMESTEPS}"
        )
    return [*problems, *_pool_problems(params)]


def _pool_problems(params: Params) -> list[str]:
    """Teacher samples, which every pool holds, that do not pass through the states that the student learns from."""
    num_steps, timesteps = params.student.pool_steps, params.add.timesteps
    if set(timesteps) <= set(trailing_timesteps(num_steps)):
        return []
    problem = f"{num_steps} steps do not visit add.timesteps {timesteps}"
    return [f"student.pool_steps: {problem}; use a multiple of {len(timesteps)}"]


def _way_problems(params: Params) -> list[str]:
    """A warm-up along the teacher's way where there is none, or where the student's sampler does not follow it."""
    student, scheduler = params.student, params.sampling.student_scheduler
    if student.knowledge_steps >= student.num_steps:
        return []
    if not student.task_weight:
        return ["student.task_weight: 0.0 leaves nothing to learn after student.knowledge_steps; use 1.0"]
    if student.pool_source == "dataset":
        reason = "student.pool_source dataset has none"
    elif scheduler == "lcm":
        reason = "sampling.student_scheduler lcm leaves it between steps"
    else:
        return []
    problem = f"{student.knowledge_steps} leaves steps of student.num_steps ({student.num_steps}) to the teacher's way"
    return [f"student.knowledge_steps: {problem}, and {reason}; use {student.num_steps}"]


def _can_do(kind: str, num_steps: int) -> bool:
    """LCM rounds its stride down; numpy's rounding gives a few strides of all trailing schedulers one step too many."""
    if kind == "lcm":
        return NUM_TRAIN_TIMESTEPS % num_steps == 0
    return len(trailing_timesteps(num_steps)) == num_steps


def _length_problems(params: Params) -> list[str]:
    problems = []
    for name, section in (("teacher", params.teacher), ("student", params.student), ("add", params.add)):
        if section.num_steps and section.warmup_steps >= section.num_steps:
            problems.append(
                f"{name}.warmup_steps: {section.warmup_steps} is not below {name}.num_steps ({section.num_steps}); "
                "use fewer"
            )
        if section.batch_size % section.accumulation_steps:
            problems.append(
                f"{name}.accumulation_steps: {section.accumulation_steps} does not divide {name}.batch_size "
                f"({section.batch_size}); use a divisor"
            )
    add = params.add
    if add.method == "adversarial" and add.adv_start_steps + add.adv_ramp_steps > add.num_steps:
        problems.append(
            f"add.adv_ramp_steps: {add.adv_ramp_steps} after add.adv_start_steps ({add.adv_start_steps}) ends behind "
            f"add.num_steps ({add.num_steps}); use fewer of either, or more steps"
        )
    num_judged = round(add.batch_size * add.judged_fraction)
    if add.method == "adversarial" and num_judged < FEWEST_JUDGED:
        problems.append(
            f"add.batch_size: of {add.batch_size}, add.judged_fraction {add.judged_fraction} leaves {num_judged} to be "
            f"judged, and a discriminator learns nothing from fewer than {FEWEST_JUDGED}; raise either"
        )
    if params.evaluate.num_images == 1:
        problems.append("evaluate.num_images: 1 picture has no distribution; use at least 2, or 0 for all")
    return problems


def _judge_problems(params: Params) -> list[str]:
    """Networks that would judge what was trained to please them."""
    add, problems = params.add, []
    if add.method == "adversarial" and "pixel" in add.discriminators and add.score_backbone == add.pixel_backbone:
        problems.append(
            f"add.score_backbone: {add.score_backbone!r} is also what the discriminator sees by, add.pixel_backbone; "
            "choose another for either"
        )
    return [*problems, *_clip_problems(params)]


def _clip_problems(params: Params) -> list[str]:
    network, key = params.add.image_text_network, "add.image_text_network"
    if params.add.method != "adversarial" or not params.add.image_text_weight or network == CAPTION_MATCH:
        return []
    judges = {"evaluate.clip_score": params.evaluate.clip_score}
    if params.evaluate.features == "clip":
        judges["evaluate.features"] = CLIP_L14
    return [
        f"{key}: {network!r} is also what {judge} judges by; train by another CLIP, or evaluate by another network"
        for judge, judging in judges.items()
        if network.split("@")[0] == judging.split("@")[0]
    ]


def trailing_timesteps(num_steps: int) -> list[int]:
    """The timesteps of diffusers' `timestep_spacing="trailing"`, noisiest first, computed as it does."""
    spaced = np.arange(NUM_TRAIN_TIMESTEPS, 0, -NUM_TRAIN_TIMESTEPS / num_steps)
    return [int(timestep) for timestep in spaced.round() - 1]


def _ingest_problems(params: Params) -> list[str]:
    ingest = params.ingest
    problems = []
    if ingest.source == "shinobi" and ingest.num_drawings < 20:
        problems.append(f"ingest.num_drawings: {ingest.num_drawings} is too few to draw; use at least 20")
    if ingest.source == "hub" and not ingest.hub_dataset:
        problems.append("ingest.hub_dataset: '' names nothing; ingest.source hub needs a data set, such as owner/name")
    if ingest.source == "hub" and not ingest.revision:
        problems.append("ingest.revision: '' is not a commit; pin the hub data set's revision")
    if ingest.validation_fraction + ingest.test_fraction >= 0.8:
        problems.append(
            f"ingest.test_fraction: {ingest.test_fraction} and ingest.validation_fraction "
            f"{ingest.validation_fraction} leave less than 0.2 of the pictures to train on"
        )
    return problems


def _template_problems(teacher: Teacher) -> list[str]:
    if teacher.prompt_template.count("{caption}") != 1:
        return [f"teacher.prompt_template: {teacher.prompt_template!r} must hold {{caption}} once"]
    return []
