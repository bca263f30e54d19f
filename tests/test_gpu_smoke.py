"""The smoke run on a GPU cuts every number of steps, needs nothing that is not here, and measures what it trains."""

from pathlib import Path

import pytest
import torch
from torch import nn

from benchmarks.gpu_health import healths, speedup
from benchmarks.gpu_smoke import make_params, typical
from benchmarks.smoke_stage import record_steps
from naruto_add.comparison.subjects import Subject
from naruto_add.config.load import parse_params
from naruto_add.diffusion.bundle import ModelBundle
from naruto_add.diffusion.sampling import dpm_solver_sampler
from naruto_add.pipeline.requirements import requirements
from naruto_add.training import loop


def test_every_stage_takes_few_steps_and_nothing_is_downloaded(sd15_dir: Path) -> None:
    params = parse_params(make_params("sd15", sd15_dir, resolution_px=64, steps=2))
    trained = [params.teacher.num_steps, params.student.num_steps, params.add.num_steps]
    drawn = [params.sampling.teacher_steps, params.sampling.pool_steps, params.evaluate.teacher_steps]
    assert max(*trained, *drawn, *params.evaluate.teacher_sweep, *params.evaluate.student_sweep) <= 4
    kinds = [each.name.split()[0] for each in requirements(params)]
    assert kinds[:2] == ["base.model", "ingest.source"]
    assert len(kinds) == 4  # the others are memory and disk: no network and no package is asked for


def test_the_first_step_is_left_out_of_the_typical_one() -> None:
    assert typical([9.0, 1.0, 3.0]) == 2.0
    assert typical([9.0]) == 9.0


def test_a_speed_up_is_of_the_same_round() -> None:
    assert speedup({"teacher": 6.0, "student": 0.5}, "student") == 12.0


def test_steps_are_timed_by_training_and_phase_and_return_what_they_did(monkeypatch: pytest.MonkeyPatch) -> None:
    returned: list[loop.Scalars] = []

    def run_steps(train_step: object, *, name: str, num_steps: int) -> None:
        returned.extend(train_step(number) for number in range(num_steps))

    monkeypatch.setattr(loop, "run_steps", run_steps)
    seconds = record_steps(knowledge_steps=2)
    for name in ("teacher", "student"):
        loop.run_steps(lambda number: {"loss": float(number)}, name=name, num_steps=5)
    lengths = {name: len(values) for name, values in seconds.items()}
    assert lengths == {"teacher": 5, "student, knowledge": 2, "student, trajectory": 3}
    assert returned[:5] == [{"loss": float(number)} for number in range(5)]


def test_half_precision_is_compared_with_fp32_at_every_timestep(tiny_bundle: ModelBundle) -> None:
    subject = Subject(tiny_bundle, dpm_solver_sampler(tiny_bundle, 4, 7.5), "weights")
    found = list(healths(tiny_bundle.unet, subject, guidance_scale=7.5))
    assert [each.timestep for each in found] == [999, 749, 499, 249]
    for each in found:
        assert 0 < each.fp16_error < each.bf16_error < 0.2
        assert each.largest is not None and 0 < each.largest < 65504


def test_an_overflow_of_fp16_is_shown(tiny_bundle: ModelBundle, capsys: pytest.CaptureFixture[str]) -> None:
    with torch.no_grad():
        nn.init.constant_(tiny_bundle.unet.conv_in.weight, 1e5)
    subject = Subject(tiny_bundle, dpm_solver_sampler(tiny_bundle, 4, 7.5), "weights")
    found = list(healths(tiny_bundle.unet, subject, guidance_scale=7.5))
    assert found and all(each.fp16_error is None and each.largest is None for each in found)
    assert "fp16 overflows in the U-Net" in capsys.readouterr().err
