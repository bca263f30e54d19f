"""Latent consistency distillation, for teachers with a known consistency function and on a random tiny pipeline."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from naruto_add.config.schema import Add
from naruto_add.diffusion.noise import alphas_cumprod, ddim_step
from naruto_add.diffusion.sampling import guided_noise_pred
from naruto_add.losses.distillation import pseudo_huber
from naruto_add.runtime.errors import StageError
from naruto_add.training.add.consistency import HUBER_DELTA, STRIDE, consistency_target, draw_consistency_batch
from tests.closed_forms import noise_pred_from_x0
from tests.training.add import build as build_module
from tests.training.add.build import GUIDANCE_SCALE, Build, has_no_gradient, same, same_training, train, weights

BAR = torch.linspace(0.00085**0.5, 0.012**0.5, 1000).square().neg().add(1).cumprod(0)
MEAN, DEVIATION = 0.7, 0.4


def add_params(**values: Any) -> Add:
    return build_module.add_params(method="consistency", **values)


# A teacher of normally distributed data, whose predictions are known


def gaussian_noise(x: Tensor, timesteps: Tensor) -> Tensor:
    """The noise prediction of a perfect model."""
    bar = BAR[timesteps].view(-1, 1, 1, 1)
    x0 = (DEVIATION**2 * bar.sqrt() * x + (1 - bar) * MEAN) / (bar * DEVIATION**2 + 1 - bar)
    return noise_pred_from_x0(x, x0, timesteps, alphas_cumprod=BAR)


def gaussian_flow_end(x: Tensor, timesteps: Tensor) -> Tensor:
    """The consistency function of infinitely small steps: the flow keeps every point at its quantile."""
    bar = BAR[timesteps].view(-1, 1, 1, 1)
    return MEAN + DEVIATION * (x - bar.sqrt() * MEAN) / (bar * DEVIATION**2 + 1 - bar).sqrt()


def end_of_steps(stride: int) -> Callable[[Tensor, Tensor], Tensor]:
    """The consistency function of DDIM steps of this length."""

    def end(x: Tensor, timesteps: Tensor) -> Tensor:
        x, now = x.clone(), timesteps.clone()
        while len(active := torch.where(now >= 0)[0]):
            noise = gaussian_noise(x[active], now[active])
            x[active] = ddim_step(x[active], noise, now[active], now[active] - stride, alphas_cumprod=BAR)
            now[active] -= stride
        return x

    return end


def gaussian_loss(function: Callable[[Tensor, Tensor], Tensor], scale: Tensor, *, stride: int) -> Tensor:
    """The loss of a student whose x0 is `scale` times `function`, and whose average is `function`."""
    timesteps = torch.arange(stride - 1, 1000, stride)
    x = torch.randn(len(timesteps), 2, 3, 3, generator=torch.Generator().manual_seed(0))
    target = consistency_target(
        x, timesteps, teacher_noise=gaussian_noise, average_x0=function, stride=stride, alphas_cumprod=BAR
    )
    return pseudo_huber(scale * function(x, timesteps), target, delta=0.1)


def test_the_loss_and_its_gradient_are_zero_for_the_consistency_function() -> None:
    scale = torch.ones((), requires_grad=True)
    loss = gaussian_loss(end_of_steps(25), scale, stride=25)
    loss.backward()
    assert loss.item() < 1e-9
    assert scale.grad is not None and scale.grad.abs() < 1e-5


@pytest.mark.parametrize(("value", "sign"), [(1.1, 1), (0.9, -1)])
def test_the_gradient_pulls_another_function_back(value: float, sign: int) -> None:
    scale = torch.tensor(value, requires_grad=True)
    loss = gaussian_loss(end_of_steps(25), scale, stride=25)
    loss.backward()
    assert loss.item() > 1e-3
    assert scale.grad is not None and (scale.grad * sign) > 0.01


def test_the_loss_of_the_flows_end_vanishes_with_smaller_steps() -> None:
    coarse, fine = (gaussian_loss(gaussian_flow_end, torch.ones(()), stride=stride).item() for stride in (250, 25))
    assert fine < 0.02 * coarse


def test_at_the_lowest_timestep_the_target_is_the_teachers_x0() -> None:
    """The boundary condition. Without it, every constant function would be consistent."""
    timesteps = torch.tensor([24, 999])
    x = torch.randn(2, 2, 3, 3, generator=torch.Generator().manual_seed(0))
    target = consistency_target(
        x,
        timesteps,
        teacher_noise=gaussian_noise,
        average_x0=lambda latents, _: torch.full_like(latents, 5.0),
        stride=25,
        alphas_cumprod=BAR,
    )
    expected = ddim_step(x, gaussian_noise(x, timesteps), timesteps, timesteps - 25, alphas_cumprod=BAR)
    assert torch.equal(target[0], expected[0])
    assert (target[1] == 5.0).all()


# The trainer


def test_only_the_student_learns(build: Build) -> None:
    trainer, teacher = build.consistency_trainer(add_params()), build.bundle.unet
    before, student, average = weights(teacher), weights(trainer.student), trainer.ema.average()
    trainer.loss(draw_consistency_batch(trainer.data, trainer.params, step=0)).backward()
    assert sum(item.grad is not None and bool(item.grad.any()) for item in trainer.student.parameters()) > 100
    assert has_no_gradient(teacher)
    assert same(weights(trainer.student), student) and same(trainer.ema.average(), average)
    for step in range(2):
        trainer.train_step(step)
    assert same(weights(teacher), before)
    assert all(not torch.equal(item, student[name]) for name, item in trainer.student.named_parameters())


def test_the_target_is_the_averages_x0_after_a_guided_step_of_the_teacher(build: Build) -> None:
    trainer, teacher = build.consistency_trainer(add_params(learning_rate=1e-2)), build.bundle
    trainer.train_step(0)  # so that the average differs from the student
    batch = draw_consistency_batch(trainer.data, trainer.params, step=1)
    batch = replace(batch, timesteps=torch.tensor([24, 249, 499, 749, 974, 974]))
    bar = alphas_cumprod(teacher.scheduler)
    noisy = teacher.scheduler.add_noise(batch.x0, batch.noise, batch.timesteps)
    guided = guided_noise_pred(
        teacher.unet,
        noisy,
        batch.timesteps,
        prompt_embeds=batch.prompt_embeds,
        negative_embeds=trainer.data.prompt_embeds[:1],
        guidance_scale=GUIDANCE_SCALE,
    )
    x_later = ddim_step(noisy, guided, batch.timesteps, batch.timesteps - STRIDE, alphas_cumprod=bar)
    later = (batch.timesteps - STRIDE).clamp(min=0)

    @torch.no_grad()
    def x0_of(x: Tensor, timesteps: Tensor) -> Tensor:
        noise = trainer.student(x, timesteps, batch.prompt_embeds, return_dict=False)[0]
        return (x - (1 - bar[timesteps]).sqrt().view(-1, 1, 1, 1) * noise) / bar[timesteps].sqrt().view(-1, 1, 1, 1)

    with trainer.ema.applied():
        target = torch.cat([x_later[:1], x0_of(x_later, later)[1:]])
    expected = pseudo_huber(x0_of(noisy, batch.timesteps), target, delta=HUBER_DELTA)
    torch.testing.assert_close(trainer.loss(batch).detach(), expected, rtol=1e-4, atol=1e-4)
    without_average = pseudo_huber(x0_of(noisy, batch.timesteps), x0_of(x_later, later), delta=HUBER_DELTA)
    assert not torch.isclose(without_average, expected, rtol=1e-3)


def test_at_the_last_timestep_the_students_input_is_pure_noise_as_in_sampling(build: Build) -> None:
    trainer = build.consistency_trainer(add_params())
    batch = draw_consistency_batch(trainer.data, trainer.params, step=0)
    batch = replace(batch, timesteps=torch.full_like(batch.timesteps, 999))
    inputs: list[Tensor] = []
    trainer.student.register_forward_pre_hook(lambda _module, args: inputs.append(args[0].detach()))
    trainer.loss(batch)
    assert torch.equal(inputs[-1], batch.noise)


def test_a_batch_depends_only_on_the_step_and_has_new_noise(build: Build) -> None:
    params = add_params(batch_size=400)
    data = build.data(params)
    batch, again, other = (draw_consistency_batch(data, params, step=step) for step in (3, 3, 4))
    assert set(batch.timesteps.tolist()) == set(range(24, 1000, 25))
    assert all(torch.equal(value, vars(again)[name]) for name, value in vars(batch).items())
    assert not torch.equal(batch.noise, other.noise)
    for x0, noise in zip(batch.x0[:8], batch.noise[:8], strict=True):
        (index,) = torch.where((data.train.x0 == x0).flatten(1).all(dim=1))
        assert not torch.allclose(noise, data.train.noise[index[0]])


def test_the_parts_of_a_batch_add_up_to_the_whole(build: Build) -> None:
    whole, parts = (build.consistency_trainer(add_params(accumulation_steps=number)) for number in (1, 3))
    for step in range(2):
        assert parts.train_step(step) == pytest.approx(whole.train_step(step), rel=1e-4)


def test_the_student_overfits_one_batch(build: Build) -> None:
    trainer = build.consistency_trainer(add_params(name="adamw", learning_rate=4e-3))
    losses = [trainer.train_step(0)["consistency_loss"] for _ in range(20)]
    assert sum(losses[-5:]) / 5 < 0.6 * losses[0]


def test_updates_with_gradients_that_are_not_finite_are_skipped_and_counted(build: Build) -> None:
    data = build.data(add_params())
    nan = replace(data, train=replace(data.train, x0=torch.full_like(data.train.x0, torch.nan)))
    trainer = build.consistency_trainer(add_params(), data=nan)
    student = weights(trainer.student)
    scalars = trainer.train_step(0)
    assert scalars["skipped_steps"] == 1 and scalars["student_grad_norm"] is None
    assert same(weights(trainer.student), student)


def test_alarms_are_about_samples_and_their_advice_is_not_about_a_discriminator(
    build: Build, capsys: pytest.CaptureFixture[str]
) -> None:
    trainer = build.consistency_trainer(add_params())
    trainer.alarms.note_validation(1, colour_drift=0.0, diversity=1.0, prompt_match=0.9)
    trainer.alarms.note_validation(2, colour_drift=9.0, diversity=0.0, prompt_match=0.5)
    alarms = {name: count for name, count in trainer.metrics().items() if name.startswith("alarms_")}
    counts = dict.fromkeys(("alarms_colour_drift", "alarms_falling_diversity", "alarms_lost_prompts"), 1)
    assert alarms == counts | {f"{name}_since_step": 2 for name in counts} | {"alarms_ends_worse": 0}
    message = capsys.readouterr().err
    assert message.count("lower add.optimizer.learning_rate") == 3 and "adv_weight" not in message


def test_a_student_that_cannot_sample_is_an_error(build: Build) -> None:
    trainer = build.consistency_trainer(add_params())
    with torch.no_grad():
        trainer.student.conv_out.weight.mul_(-30)
    with pytest.raises(StageError, match="the student cannot sample"):
        trainer.check_student()


@pytest.mark.slow
def test_a_killed_run_resumes_bit_for_bit(build: Build, tmp_path: Path) -> None:
    whole, resumed = (build.consistency_trainer(add_params(warmup_steps=3)) for _ in range(2))
    train(whole, tmp_path / "whole", kill_at=3, killed=tmp_path / "killed")
    assert train(resumed, tmp_path / "killed") == [2, 3]
    assert same_training(whole, resumed)
    for name in ("curves.tsv", "curves_validation.tsv"):
        assert (tmp_path / "whole" / name).read_text() == (tmp_path / "killed" / name).read_text()
    assert whole.metrics() == resumed.metrics()
