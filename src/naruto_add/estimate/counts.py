"""How many pictures the stages without training draw, and how many calls of the U-Nets that takes.

A call is one of a U-Net for one picture. A guided call of the teacher computes two predictions, so a call without
guidance counts as half of one.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

from naruto_add.comparison.samples import NUM_INTERPOLATED, NUM_SEEDS
from naruto_add.config.schema import Params
from naruto_add.evaluation.cost import LARGE_BATCH
from naruto_add.evaluation.timing import ROUND_STEPS, UNTIMED_STEPS
from naruto_add.export.latency import BATCHES, MAX_ROUNDS
from naruto_add.export.models import EXAMPLE_TEACHER_STEPS
from naruto_add.training.pool import num_held_out

Scheduler = Literal["pndm", "dpm"]
Point = tuple[Scheduler, int]
"""A scheduler of the teacher, and its number of steps."""


@dataclass(frozen=True)
class Counts:
    """Guided calls of the teacher's U-Net, calls of the student's without guidance, and decoded pictures."""

    teacher_calls: float
    student_calls: int
    pictures: int


@dataclass(frozen=True)
class Measured:
    """Pictures of which features are computed, pairs of pictures that are compared, and pictures with captions."""

    features: int
    pairs: int
    captioned: int


def evaluate_counts(params: Params, num_test: int) -> Counts:
    """The counts of `evaluate` with a test split of this size; pictures that several sets share are drawn once."""
    evaluate, sampling = params.evaluate, params.sampling
    few = sampling.student_steps
    num = evaluate.num_images or num_test
    num_few = min(num, evaluate.sweep_images)
    best: Point = ("dpm", evaluate.teacher_steps)
    full: Point = ("pndm", sampling.teacher_steps)
    baselines: list[Point] = [("pndm", few), ("dpm", few)]
    new, student_new = _new_points(params)
    teacher_calls = (
        num * (2 * _calls(best) + sum(map(_calls, baselines)))  # the base model is drawn as the teacher is
        + num_few * (_calls(best) + sum(map(_calls, baselines)))  # from the second seed
        + num_few * (_calls(full) + sum(map(_calls, new)))
    )
    student_calls = 2 * (num + num_few) * few + num_few * sum(student_new)
    pictures = 6 * num + num_few * (6 + len(new) + len(student_new)) + 2 * num  # the last: decoded real pictures
    timed = [*_timed([best, full, *baselines], new)]
    timed_student = [*_timed_student([few, few], student_new)]
    rounds = evaluate.latency_repeats
    return Counts(
        teacher_calls=teacher_calls + sum(_timing_calls(_calls(point), size, rounds) for point, size in timed),
        student_calls=student_calls + sum(_timing_calls(steps, size, rounds) for steps, size in timed_student),
        pictures=pictures,
    )


def samples_counts(params: Params, num_test: int) -> Counts:
    """The counts of `samples`; the grids share pictures of the same model, prompts and seed."""
    samples, few = params.samples, params.sampling.student_steps
    prompts, captions = len(samples.prompts), min(samples.num_test_captions, num_test)
    others = [steps for steps in samples.steps if steps != few]
    both = prompts + captions
    seeds = (NUM_SEEDS - 1) * prompts
    interpolated = 2 * NUM_INTERPOLATED
    return Counts(
        teacher_calls=2 * both * _calls(("pndm", params.sampling.teacher_steps)),
        student_calls=(2 * both + seeds + interpolated) * few + prompts * sum(others),
        pictures=4 * both + seeds + interpolated + prompts * len(others),
    )


def export_counts(params: Params) -> Counts:
    """The counts of `export` without ONNX: checks and cards' pictures, then at most `MAX_ROUNDS` of timing."""
    export, few = params.export, params.sampling.student_steps
    prompts, formats = len(export.prompts), set(export.formats)
    num_loaded = 2 if export.precision == "fp16" else 1
    num_teacher_files = len(formats & {"lora", "single_file"})
    num_student_files = 1 + ("single_file" in formats)
    timed = (1 + MAX_ROUNDS) * sum(BATCHES)
    num_timed_teachers = num_teacher_files + bool(num_teacher_files)
    checked = num_loaded + ("single_file" in formats)
    unguided = few * (2 * prompts * num_teacher_files + timed * num_timed_teachers)
    return Counts(
        teacher_calls=prompts * EXAMPLE_TEACHER_STEPS + unguided / 2,
        student_calls=few * (prompts * (1 + 4 * checked) + timed * (1 + num_student_files)),
        pictures=prompts * (2 + 2 * num_teacher_files + 2 * checked)
        + timed * (1 + num_student_files + num_timed_teachers),
    )


def measured_counts(params: Params, num_test: int) -> Measured:
    """What the networks of `evaluate` measure; of equal pictures only once."""
    evaluate = params.evaluate
    num = evaluate.num_images or num_test
    num_few = min(num, evaluate.sweep_images)
    drawn = 6 * num + num_few  # teacher_full draws few
    new, student_new = _new_points(params)
    return Measured(
        features=drawn + num_test + 2 * num + num_few * (len(new) + len(student_new)),
        pairs=drawn + 5 * num_few,
        captioned=drawn + num_test + num,
    )


def num_validations(num_steps: int, every_steps: int) -> int:
    """Validations of a training: before the first step, after every `every_steps`, and after the last."""
    return -(-num_steps // every_steps) + 1


def add_decoded(params: Params) -> int:
    """Pictures that the validations of `add` decode: the held-out pool samples, once more for the teacher's."""
    rounds = num_validations(params.add.num_steps, params.add.validation_every_steps)
    return num_held_out(params.student.pool_size) * (rounds + 1)


def _new_points(params: Params) -> tuple[set[Point], set[int]]:
    """The points of the sweep that are not drawn anyway: of the teacher, and the student's numbers of steps."""
    evaluate, sampling = params.evaluate, params.sampling
    few = sampling.student_steps
    drawn: set[Point] = {("dpm", evaluate.teacher_steps), ("pndm", sampling.teacher_steps), ("pndm", few), ("dpm", few)}
    sweep: set[Point] = {(kind, steps) for kind in ("pndm", "dpm") for steps in evaluate.teacher_sweep}
    return sweep - drawn, {*evaluate.student_sweep} - {few}


def _calls(point: Point) -> int:
    """PNDM calls the U-Net twice at its second timestep."""
    scheduler, steps = point
    return steps + 1 if scheduler == "pndm" and steps > 1 else steps


def _timed(points: Iterable[Point], sweep: Iterable[Point]) -> Iterable[tuple[Point, int]]:
    """Timed points, each with the number of pictures at once."""
    yield from ((point, size) for point in dict.fromkeys(points) for size in (1, LARGE_BATCH))
    yield from ((point, 1) for point in sweep)


def _timed_student(steps: Iterable[int], sweep: Iterable[int]) -> Iterable[tuple[int, int]]:
    yield from ((number, size) for number in steps for size in (1, LARGE_BATCH))
    yield from ((number, 1) for number in sweep)


def _timing_calls(steps: int, num_pictures: int, rounds: int) -> int:
    """Once without timing, then in every round as many pictures as make `ROUND_STEPS` steps."""
    return num_pictures * (min(steps, UNTIMED_STEPS) + rounds * -(-ROUND_STEPS // steps) * steps)
