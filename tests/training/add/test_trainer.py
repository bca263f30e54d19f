"""What all methods share: precision, the check of the student, validation and its alarms."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from naruto_add.diffusion import bundle as bundle_module
from naruto_add.diffusion.bundle import load_unet
from naruto_add.diffusion.noise import alphas_cumprod
from naruto_add.diffusion.sampling import sample_latents
from naruto_add.runtime.compute import DTYPES
from naruto_add.runtime.errors import StageError
from naruto_add.training import weights as weights_module
from naruto_add.training.add.batch import draw_batch
from naruto_add.training.add.dataset import Pairs
from naruto_add.training.add.trainer import training_precision
from naruto_add.training.scores import check_can_sample
from tests.training.add.build import TIMESTEPS, Build, add_params, x0_of


def test_gradient_checkpointing_changes_no_result_and_is_off_in_the_teacher(build: Build) -> None:
    plain, checkpointed = (build.trainer(add_params(gradient_checkpointing=value)) for value in (False, True))
    assert checkpointed.student.is_gradient_checkpointing
    assert not build.bundle.unet.is_gradient_checkpointing
    for step in range(2):
        assert checkpointed.train_step(step) == pytest.approx(plain.train_step(step), rel=1e-5)


def test_training_is_never_in_fp16_and_x0_is_in_fp32(build: Build) -> None:
    assert [training_precision(item) for item in ("fp32", "bf16", "fp16")] == ["fp32", "bf16", "bf16"]
    trainer = build.trainer(add_params())
    batch = draw_batch(trainer.data, trainer.params, step=0)
    assert batch.x0.shape[1:] == build.bundle.latent_shape
    assert {item.dtype for item in trainer.student.parameters()} == {torch.float32}
    assert x0_of(trainer, batch).dtype == torch.float32


def test_the_check_samples_by_ddim_although_the_students_scheduler_adds_noise(build: Build) -> None:
    """The only held-out sample is the student's by DDIM, and the mean sample is so near that no other passes."""
    params = add_params()
    data = build.data(params)
    one = Pairs(*(value[:1] for value in vars(data.held_out).values()))
    x0 = build.trainer(params, data=replace(data, held_out=one)).sample_held_out()
    train = replace(data.train, x0=(x0 + 1e-3).expand_as(data.train.x0))
    data = replace(data, held_out=replace(one, x0=x0), train=train)
    trainer = build.trainer(params, scheduler="lcm", data=data)
    trainer.check_student()
    with pytest.raises(StageError, match="the student cannot sample"):
        check_can_sample(trainer.sample_held_out(), x0, constant=train.x0.mean(dim=0))


def test_a_student_with_a_colour_cast_causes_an_alarm(build: Build, capsys: pytest.CaptureFixture[str]) -> None:
    trainer = build.trainer(add_params())
    trainer.validate(0)
    assert trainer.alarms.counts["colour_drift"] == 0
    state = trainer.ema.state_dict()
    state["average"]["conv_out.bias"] += 2.0
    trainer.ema.load_state_dict(state)
    trainer.validate(2)
    assert trainer.metrics()["alarms_colour_drift"] == 1
    assert "alarm colour_drift: " in capsys.readouterr().err


def test_a_student_that_draws_one_picture_from_every_noise_causes_an_alarm(
    build: Build, capsys: pytest.CaptureFixture[str]
) -> None:
    trainer = build.trainer(add_params())
    trainer.validate(0)
    bar = alphas_cumprod(build.bundle.scheduler)

    def all_is_noise(_module: nn.Module, args: tuple[Tensor, ...], _output: Any) -> tuple[Tensor]:
        noisy, timesteps = args[:2]
        return (noisy / (1 - bar[timesteps]).sqrt().view(-1, 1, 1, 1),)

    trainer.student.register_forward_hook(all_is_noise)
    trainer.validate(2)
    assert trainer.metrics()["alarms_falling_diversity"] == 1
    assert "alarm falling_diversity: " in capsys.readouterr().err


def test_the_score_is_of_held_out_pairs_at_the_students_own_number_of_steps(build: Build) -> None:
    params = add_params()
    trainer = build.trainer(params)
    held_out = trainer.data.held_out
    assert len(held_out) == 4
    for step in range(20):
        for noise in draw_batch(trainer.data, params, step=step).noise:
            assert not (held_out.noise == noise).flatten(1).all(dim=1).any()
    timesteps: list[int] = []
    trainer.student.register_forward_pre_hook(lambda _module, args: timesteps.append(int(args[1][0])))
    trainer.validate(0)
    assert timesteps == 2 * TIMESTEPS  # of the held-out pairs, then of a few prompts with several noises each


def test_the_scores_are_zero_for_the_teachers_samples(build: Build) -> None:
    params = add_params()
    data = build.data(params)
    samples = build.trainer(params, data=data).sample_held_out()
    trainer = build.trainer(params, data=replace(data, held_out=replace(data.held_out, x0=samples)))
    scalars = trainer.validate(0)
    assert [scalars[name] for name in ("latent_distance", "sample_mse", "colour_drift")] == [0.0, 0.0, 0.0]
    assert scalars["score"] == pytest.approx(0, abs=1e-9)


def test_the_first_and_the_best_scores_are_metrics(build: Build) -> None:
    trainer = build.trainer(add_params())
    start = trainer.validate(0)
    with torch.no_grad():
        trainer.student.conv_out.weight.mul_(-30)
    trainer.ema.load_state_dict({"average": dict(trainer.student.named_parameters()), "num_updates": 0})
    worse = trainer.validate(2)
    assert worse["score"] > start["score"]
    metrics = trainer.metrics()
    assert metrics["best_step"] == 0
    assert all(metrics[f"start_{name}"] == metrics[f"best_{name}"] == value for name, value in start.items())


def test_validation_draws_in_the_precision_of_evaluation(
    build: Build, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With weights rounded to bf16, as those of a student that is loaded from its folder."""
    for module in (weights_module, bundle_module):  # a CPU would otherwise compute in fp32
        monkeypatch.setattr(module, "frozen_dtype", DTYPES.__getitem__)
    trainer = build.trainer(add_params())
    trainer.precision = "bf16"
    trainer.train_step(0)
    with trainer.ema.applied():
        trainer.student.save_pretrained(tmp_path)
        drawn = trainer.sample_held_out()
    held_out = trainer.data.held_out
    expected = sample_latents(
        load_unet(tmp_path, precision="bf16"),
        noise=held_out.noise,
        prompt_embeds=trainer.data.prompt_embeds[held_out.rows],
        negative_embeds=trainer.data.prompt_embeds[:1],
        sampler=trainer.sampler,
    )
    assert torch.equal(drawn, expected)
    assert {item.dtype for item in trainer.student.parameters()} == {torch.float32}
