"""Pictures and calls are counted as the stages draw: shared pictures once, and PNDM with its extra call."""

from pathlib import Path
from typing import Any

from naruto_add.config.load import load_params
from naruto_add.config.schema import Params
from naruto_add.estimate.counts import add_decoded, evaluate_counts, export_counts, samples_counts

ROOT = Path(__file__).parents[2]


def _params(section: str, **changes: Any) -> Params:
    """The parameters of profile mini, with changes in one section."""
    params = load_params(ROOT / "params.yaml")
    return params.model_copy(update={section: getattr(params, section).model_copy(update=changes)})


def _evaluate(**changes: Any) -> Params:
    fixed = {"num_images": 10, "sweep_images": 4, "teacher_steps": 25, "latency_repeats": 1}
    return _params("evaluate", **{**fixed, "teacher_sweep": [25], "student_sweep": [4], **changes})


def test_the_evaluated_teacher_takes_its_own_number_of_steps() -> None:
    fewer, more = (evaluate_counts(_evaluate(teacher_steps=steps, teacher_sweep=[2]), 100) for steps in (12, 24))
    drawn = (2 * 10 + 4) * 12
    timed = (1 + 8) * 12  # in the one round
    assert more.teacher_calls - fewer.teacher_calls == drawn + timed


def test_a_point_of_the_sweep_that_is_drawn_anyway_is_counted_once() -> None:
    one, more = (evaluate_counts(_evaluate(teacher_sweep=sweep), 100) for sweep in ([4], [4, 25]))
    new = 4 * 26 + 26 + 4  # 25 steps of PNDM: four captions, once timed, and four untimed steps; DPM-Solver++ is there
    assert more.teacher_calls - one.teacher_calls == new
    four, eight = (evaluate_counts(_evaluate(student_sweep=sweep), 100) for sweep in ([4], [4, 8]))
    assert eight.student_calls - four.student_calls == 4 * 8 + 4 + 2 * 8


def test_all_of_the_test_split_is_drawn_if_no_number_is_given() -> None:
    assert evaluate_counts(_evaluate(num_images=0), 10) == evaluate_counts(_evaluate(num_images=10), 10)
    assert evaluate_counts(_evaluate(num_images=0), 20).pictures > evaluate_counts(_evaluate(num_images=0), 10).pictures


def test_the_grids_share_pictures() -> None:
    params = _params("samples", prompts=["a", "b"], num_test_captions=3, steps=[4, 8])
    counts = samples_counts(params, 100)
    assert counts.teacher_calls == 2 * (2 + 3) * 101
    assert counts.student_calls == 4 * (2 * (2 + 3) + 5 * 2 + 2 * 7) + 8 * 2


def test_every_exported_format_adds_its_check_and_its_timing() -> None:
    plain, lora = (export_counts(_params("export", formats=f)) for f in (["diffusers"], ["diffusers", "lora"]))
    assert plain.teacher_calls == 4 * 25
    assert lora.student_calls == plain.student_calls
    assert lora.teacher_calls - plain.teacher_calls == 4 * (2 * 4 + 2 * 6 * 9) / 2


def test_validations_of_add_decode_the_held_out_samples() -> None:
    params = _params("add", num_steps=100, validation_every_steps=40)
    assert add_decoded(params) == min(256, params.student.pool_size // 4) * (4 + 1)
