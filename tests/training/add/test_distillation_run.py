"""What all methods share: precision, the gate, alarms and scores of samples, when to end."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from naruto_add.compute import DTYPES
from naruto_add.diffusion import bundle as bundle_module
from naruto_add.diffusion.bundle import load_unet
from naruto_add.diffusion.noise import alphas_cumprod
from naruto_add.diffusion.sampling import sample_latents
from naruto_add.training import weights as weights_module
from naruto_add.training.add import distillation_run
from naruto_add.training.add.distillation_run import training_precision
from naruto_add.training.add.inputs import draw_batch
from naruto_add.training.add.picture_score import PictureScore
from naruto_add.training.add.run import AddRun
from naruto_add.training.loop import run_steps
from tests.training.add.build import Build, add_params, x0_of


def test_gradient_checkpointing_changes_no_figure_and_spares_the_hooked_teacher(build: Build) -> None:
    plain, checkpointed = (build.run(add_params(gradient_checkpointing=value)) for value in (False, True))
    assert checkpointed.student.is_gradient_checkpointing
    assert not build.bundle.unet.is_gradient_checkpointing
    for step in range(2):
        assert checkpointed.train_step(step) == pytest.approx(plain.train_step(step), rel=1e-5)


def test_fault_6_training_is_never_in_fp16_and_latents_are_the_autoencoders(build: Build) -> None:
    assert [training_precision(item) for item in ("fp32", "bf16", "fp16")] == ["fp32", "bf16", "bf16"]
    run = build.run(add_params())
    batch = draw_batch(run.data, run.params, step=0)
    assert batch.x0.shape[1:] == build.bundle.latent_shape
    assert {item.dtype for item in run.student.parameters()} == {torch.float32}
    assert x0_of(run, batch).dtype == torch.float32


def test_the_gate_examines_by_a_sampler_that_keeps_to_its_noise(build: Build, monkeypatch: pytest.MonkeyPatch) -> None:
    """One that re-noises ends elsewhere than the teacher did from the same noise, however good its student."""
    seen: list[Tensor] = []
    monkeypatch.setattr(distillation_run, "check_can_sample", lambda samples, *_, **__: seen.append(samples))
    run = build.run(add_params(), scheduler="lcm")
    run.refuse_hopeless()
    assert torch.equal(seen[0], build.run(add_params()).sample_held_out())
    assert not torch.equal(seen[0], run.sample_held_out())


# Alarms, each by what it is there for


def test_a_student_that_tints_everything_rings(build: Build, capsys: pytest.CaptureFixture[str]) -> None:
    run = build.run(add_params())
    run.validate(0)
    assert run.alarms.counts["colour_drift"] == 0
    state = run.ema.state_dict()
    state["average"]["conv_out.bias"] += 2.0
    run.ema.load_state_dict(state)
    run.validate(2)
    assert run.metrics()["alarms_colour_drift"] == 1
    assert "alarm colour_drift: " in capsys.readouterr().err


def test_a_student_that_draws_one_picture_whatever_the_noise_rings(
    build: Build, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    run = build.run(add_params())
    run.validate(0)
    bar = alphas_cumprod(build.bundle.scheduler)

    def all_is_noise(noisy: Tensor, timesteps: Tensor, *_: Any, **__: Any) -> tuple[Tensor]:
        return (noisy / (1 - bar[timesteps]).sqrt().view(-1, 1, 1, 1),)

    monkeypatch.setattr(run.student, "forward", all_is_noise)
    run.validate(2)
    assert run.metrics()["alarms_falling_diversity"] == 1
    assert "alarm falling_diversity: " in capsys.readouterr().err


# Validation, and when to end


def test_fault_9_the_score_is_on_samples_never_trained_on_at_the_students_own_step_count(build: Build) -> None:
    params = add_params()
    run = build.run(params)
    held_out = run.data.held_out
    assert len(held_out) == 4
    for step in range(20):
        for noise in draw_batch(run.data, params, step=step).noise:
            assert not (held_out.noise == noise).flatten(1).all(dim=1).any()
    calls: list[int] = []
    run.student.register_forward_pre_hook(lambda *_: calls.append(1))
    run.validate(0)
    assert len(calls) == 2 * len(params.timesteps)  # the held-out pairs, and a few prompts with several noises each


def test_validation_draws_as_evaluation_does(build: Build, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In half precision: with weights rounded, as a student loaded from its folder has them."""
    monkeypatch.setattr(weights_module, "frozen_dtype", DTYPES.__getitem__)
    monkeypatch.setattr(bundle_module, "frozen_dtype", DTYPES.__getitem__)
    run = build.run(add_params())
    run.precision = "bf16"
    run.train_step(0)  # the average is drawn, and it has moved
    with run.ema.applied():
        run.student.save_pretrained(tmp_path)
        drawn = run.sample_held_out()
    held_out = run.data.held_out
    expected = sample_latents(
        load_unet(tmp_path, precision="bf16"),
        noise=held_out.noise,
        prompt_embeds=run.data.prompt_embeds[held_out.rows],
        negative_embeds=run.data.prompt_embeds[:1],
        sampler=run.sampler,
    )
    assert torch.equal(drawn, expected)
    assert {item.dtype for item in run.student.parameters()} == {torch.float32}


def test_a_perfect_student_scores_zero(build: Build) -> None:
    run = build.run(add_params())
    held_out = replace(run.data.held_out, x0=run.sample_held_out())
    run.data = replace(run.data, held_out=held_out)
    run.picture_score = PictureScore(run.bundle, held_out.x0, params=run.params)
    scalars = run.validate(0)
    assert [scalars[name] for name in ("latent_distance", "sample_mse", "colour_drift")] == [0.0, 0.0, 0.0]
    assert scalars["score"] == pytest.approx(0, abs=1e-9)


def test_patience_ends_training_early_and_for_good(
    build: Build, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(PictureScore, "__call__", lambda *_: 0.5)
    params = add_params(num_steps=6, validation_every_steps=1, patience=2, adv_weight=0.0, renoised_weight=0.0)
    run, again = build.run(params), build.run(params)
    steps: list[int] = []

    def finish(run: AddRun) -> None:
        def train_step(step: int) -> dict[str, float]:
            steps.append(step)
            return run.train_step(step)

        run_steps(
            train_step,
            name="add",
            num_steps=params.num_steps,
            state=run.state(),
            validate=run.validate,
            validation_every_steps=1,
            checkpoint_dir=tmp_path,
            curves_path=tmp_path / "curves.tsv",
            is_finished=run.patience.is_over,
        )

    finish(run)
    finish(again)  # a finished run has nothing left to do
    assert steps == [0, 1]
