"""What all methods share: precision, the check of the student, validation and its alarms."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from naruto_add.data.dataset import load_split
from naruto_add.data.pixels import load_pixels
from naruto_add.diffusion.bundle import decode_latents, load_unet
from naruto_add.diffusion.frozen_unet import frozen_unet
from naruto_add.diffusion.noise import alphas_cumprod
from naruto_add.diffusion.sampling import sample_latents
from naruto_add.runtime.errors import StageError
from naruto_add.training.add.batch import draw_batch
from naruto_add.training.add.dataset import Pairs
from naruto_add.training.add.trainer import autocast_dtype, first_of_each
from naruto_add.training.scores import check_can_sample
from tests.training.add.build import TEMPLATE, TIMESTEPS, Build, add_params, x0_of


def test_gradient_checkpointing_changes_no_result_and_is_off_in_the_teacher(build: Build) -> None:
    plain, checkpointed = (build.trainer(add_params(gradient_checkpointing=value)) for value in (False, True))
    assert checkpointed.student.is_gradient_checkpointing
    assert not build.bundle.unet.is_gradient_checkpointing
    for step in range(2):
        assert checkpointed.train_step(step) == pytest.approx(plain.train_step(step), rel=1e-5)


def test_training_is_never_in_fp16_and_x0_is_in_fp32(build: Build) -> None:
    assert [autocast_dtype(item) for item in ("fp32", "bf16", "fp16")] == ["fp32", "bf16", "bf16"]
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
    assert timesteps[:4] == TIMESTEPS
    assert set(zip(*[iter(timesteps)] * 4, strict=True)) == {tuple(TIMESTEPS)}


def test_the_scores_are_zero_for_the_teachers_samples(build: Build) -> None:
    params = add_params()
    data = build.data(params)
    samples = build.trainer(params, data=data).sample_held_out()
    trainer = build.trainer(params, data=replace(data, held_out=replace(data.held_out, x0=samples)))
    scalars = trainer.validate(0)
    assert scalars["sample_mse"] == scalars["colour_drift"] == 0.0
    assert scalars["prompt_match"] == 1.0
    assert scalars["score"] == trainer.metrics()["teacher_score"]


def test_the_score_is_the_distance_to_real_pictures_that_nothing_is_trained_on(build: Build) -> None:
    """Samples whose pictures are the real ones themselves have the lowest score; the teacher's do not matter."""
    params = add_params(real_source="dataset")
    data = build.data(params)
    validation = load_pixels(load_split(build.dataset_dir, "validation", prompt_template=TEMPLATE))
    assert torch.equal(data.real_pixels[: len(validation)], validation)
    samples = build.trainer(params, data=data).sample_held_out()
    pixels = decode_latents(build.bundle, samples).clamp(-1, 1)
    trainer = build.trainer(params, data=replace(data, real_pixels=pixels))
    assert trainer.validate(0)["score"] < build.trainer(params, data=data).validate(0)["score"]


def test_every_validation_is_a_row_of_the_same_prompts_below_the_teachers(build: Build) -> None:
    trainer = build.trainer(add_params())
    for num_done in (0, 2):
        trainer.validate(num_done)
    state = trainer.grid.state_dict()
    assert state["labels"] == ["teacher", "start", "step 2"]
    assert len({len(row) for row in state["rows"]}) == 1
    assert torch.equal(state["rows"][1], state["rows"][2])  # nothing was trained in between


def test_first_of_each_are_the_indices_of_distinct_values() -> None:
    assert first_of_each(torch.tensor([5, 5, 2, 5, 2, 9])).tolist() == [0, 2, 5]


def test_a_training_that_ends_worse_keeps_its_best_weights_and_causes_an_alarm(
    build: Build, capsys: pytest.CaptureFixture[str]
) -> None:
    params = add_params()
    data = build.data(params)
    pixels = decode_latents(build.bundle, build.trainer(params, data=data).sample_held_out()).clamp(-1, 1)
    trainer = build.trainer(params, data=replace(data, real_pixels=pixels))  # the student cannot be better than it is
    start = trainer.validate(0)
    good = {name: item.detach().clone() for name, item in trainer.student.named_parameters()}
    with torch.no_grad():
        trainer.student.conv_out.weight.mul_(-30)
    trainer.ema.load_state_dict({"average": dict(trainer.student.named_parameters()), "num_updates": 0})
    worse = trainer.validate(trainer.params.num_steps)
    assert worse["score"] > start["score"] + start["score_error"]
    metrics = trainer.metrics()
    assert metrics["kept_step"] == metrics["best_step"] == 0
    assert metrics["alarms_ends_worse"] == 1
    assert "alarm ends_worse: after step 4" in capsys.readouterr().err
    assert all(metrics[f"start_{name}"] == value for name, value in start.items())
    assert all(metrics[f"end_{name}"] == value for name, value in worse.items())
    trainer.copy_kept_weights()
    assert all(torch.equal(good[name], item) for name, item in trainer.student.named_parameters())


def test_validation_draws_in_the_precision_of_evaluation(build: Build, tmp_path: Path) -> None:
    """With weights rounded to bf16, as those of a student that is loaded from its folder on a GPU."""
    trainer = build.trainer(add_params())
    assert trainer.sampling_dtype == torch.float32  # on a CPU
    trainer.sampling_dtype = torch.bfloat16
    trainer.train_step(0)
    with trainer.ema.applied():
        trainer.student.save_pretrained(tmp_path)
        drawn = trainer.sample_held_out()
    held_out = trainer.data.held_out
    saved = load_unet(tmp_path, precision="fp32", scheduler=build.bundle.scheduler)
    expected = sample_latents(
        frozen_unet(saved, torch.bfloat16, torch.device("cpu")),
        noise=held_out.noise,
        prompt_embeds=trainer.data.prompt_embeds[held_out.rows],
        negative_embeds=trainer.data.prompt_embeds[:1],
        sampler=trainer.sampler,
    )
    assert torch.equal(drawn, expected)
    assert {item.dtype for item in trainer.student.parameters()} == {torch.float32}
