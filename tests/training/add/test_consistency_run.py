"""Latent consistency distillation, on teachers whose consistency function is known and on a random tiny pipeline."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import UNet2DConditionModel
from torch import Tensor

from naruto_add.diffusion.bundle import ModelBundle, load_unet
from naruto_add.diffusion.noise import alphas_cumprod
from naruto_add.diffusion.sampling import guided_noise_pred
from naruto_add.diffusion.solver import ddim_step
from naruto_add.losses.distillation import pseudo_huber
from naruto_add.params import Add
from naruto_add.runtime import StageError
from naruto_add.training.add.consistency_run import ConsistencyRun, consistency_target, draw_consistency_batch
from naruto_add.training.add.distill import distill
from naruto_add.training.add.inputs import AddData, load_data
from naruto_add.training.loop import run_steps
from naruto_add.training.pool import load_pool
from tests.closed_forms import noise_pred_from_x0
from tests.training.add.build import PROFILE, TEMPLATE, same, weights

BAR = torch.linspace(0.00085**0.5, 0.012**0.5, 1000).square().neg().add(1).cumprod(0)
MEAN, DEVIATION = 0.7, 0.4
SMALL = {
    "method": "consistency",
    "num_steps": 4,
    "learning_rate_decay": "none",
    "batch_size": 6,
    "warmup_steps": 0,
    "adv_start_steps": 0,
    "adv_ramp_steps": 0,
    "validation_every_steps": 2,
}


def add_params(**values: Any) -> Add:
    return Add.model_validate({**PROFILE.add.model_dump(), **SMALL, **values})


# A teacher whose answer is known


def gaussian_noise(x: Tensor, timesteps: Tensor) -> Tensor:
    """What a perfect model of normal data predicts."""
    bar = BAR[timesteps].view(-1, 1, 1, 1)
    x0 = (DEVIATION**2 * bar.sqrt() * x + (1 - bar) * MEAN) / (bar * DEVIATION**2 + 1 - bar)
    return noise_pred_from_x0(x, x0, timesteps, alphas_cumprod=BAR)


def gaussian_path_end(x: Tensor, timesteps: Tensor) -> Tensor:
    """The flow keeps every point at its quantile: the consistency function of infinitely small steps."""
    bar = BAR[timesteps].view(-1, 1, 1, 1)
    return MEAN + DEVIATION * (x - bar.sqrt() * MEAN) / (bar * DEVIATION**2 + 1 - bar).sqrt()


def end_of_steps(stride: int) -> Callable[[Tensor, Tensor], Tensor]:
    """Where DDIM steps of this length end: the consistency function of the grid, exactly."""

    def end(x: Tensor, timesteps: Tensor) -> Tensor:
        x, now = x.clone(), timesteps.clone()
        while len(active := torch.where(now >= 0)[0]):
            noise = gaussian_noise(x[active], now[active])
            x[active] = ddim_step(x[active], noise, now[active], now[active] - stride, alphas_cumprod=BAR)
            now[active] -= stride
        return x

    return end


def gaussian_loss(function: Callable[[Tensor, Tensor], Tensor], scale: Tensor, *, stride: int) -> Tensor:
    """Of a student whose x0 is `scale` times the function's, and whose average is the function."""
    timesteps = torch.arange(stride - 1, 1000, stride)
    x = torch.randn(len(timesteps), 2, 3, 3, generator=torch.Generator().manual_seed(0))
    target = consistency_target(
        x, timesteps, teacher_noise=gaussian_noise, average_x0=function, stride=stride, alphas_cumprod=BAR
    )
    return pseudo_huber(scale * function(x, timesteps), target, delta=0.1)


def test_the_loss_and_gradient_of_the_consistency_function_are_zero() -> None:
    scale = torch.ones((), requires_grad=True)
    loss = gaussian_loss(end_of_steps(25), scale, stride=25)
    loss.backward()
    assert loss.item() < 1e-9
    assert scale.grad is not None and scale.grad.abs() < 1e-5


def test_any_other_function_has_a_loss_that_pulls_it_back() -> None:
    for value, sign in ((1.1, 1), (0.9, -1)):
        scale = torch.tensor(value, requires_grad=True)
        loss = gaussian_loss(end_of_steps(25), scale, stride=25)
        loss.backward()
        assert loss.item() > 1e-3
        assert scale.grad is not None and (scale.grad * sign) > 0.01


def test_with_smaller_steps_the_loss_of_the_flows_own_end_vanishes() -> None:
    coarse, fine = (gaussian_loss(gaussian_path_end, torch.ones(()), stride=stride).item() for stride in (250, 25))
    assert fine < 0.02 * coarse


def test_at_the_end_of_the_way_the_target_is_the_teachers_x0_whatever_the_average_says() -> None:
    """The boundary condition: without it, any constant would be consistent."""
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


# The run


Build = Callable[[Add], ConsistencyRun]


@pytest.fixture
def data(tiny_bundle: ModelBundle, pool_path: Path, tiny_dataset_dir: Path, tmp_path: Path) -> AddData:
    return load_data(
        tiny_bundle,
        load_pool(pool_path),
        params=add_params(),
        prompt_template=TEMPLATE,
        dataset_dir=tiny_dataset_dir,
        cache_dir=tmp_path / "cache",
    )


@pytest.fixture
def build(tiny_bundle: ModelBundle, student_dir: Path, data: AddData) -> Build:
    def make(params: Add) -> ConsistencyRun:
        return ConsistencyRun(
            tiny_bundle,
            load_unet(student_dir, precision="fp32").requires_grad_(True),
            data=data,
            params=params,
            guidance_scale=3.0,
            student_scheduler="lcm",
            precision="fp32",
        )

    return make


def test_only_the_student_learns(build: Build, tiny_bundle: ModelBundle) -> None:
    run = build(add_params())
    teacher, student, average = weights(tiny_bundle.unet), weights(run.student), run.ema.average()
    run.loss(draw_consistency_batch(run.data, run.params, step=0)).backward()
    assert all(item.grad is not None and item.grad.any() for item in run.student.conv_out.parameters())
    assert sum(item.grad is not None and bool(item.grad.any()) for item in run.student.parameters()) > 100
    assert all(item.grad is None for item in tiny_bundle.unet.parameters())
    assert same(weights(run.student), student) and same(run.ema.average(), average)  # the swap left no trace
    for step in range(2):
        run.train_step(step)
    assert same(weights(tiny_bundle.unet), teacher)
    assert all(not torch.equal(item, student[name]) for name, item in run.student.named_parameters())


def test_the_target_is_the_averages_x0_behind_a_guided_step(build: Build, tiny_bundle: ModelBundle) -> None:
    """The average moves behind the student: after a step, only its own weights give the loss that is computed."""
    run = build(add_params(learning_rate=1e-2))
    run.train_step(0)
    batch = draw_consistency_batch(run.data, run.params, step=1)
    batch = replace(batch, timesteps=torch.tensor([24, 249, 499, 749, 974, 974]))
    bar = alphas_cumprod(tiny_bundle.scheduler)
    noisy = tiny_bundle.scheduler.add_noise(batch.x0, batch.noise, batch.timesteps)
    guided = guided_noise_pred(
        tiny_bundle.unet,
        noisy,
        batch.timesteps,
        prompt_embeds=batch.prompt_embeds,
        negative_embeds=run.data.prompt_embeds[:1],
        guidance_scale=3.0,
    )
    x_later = ddim_step(noisy, guided, batch.timesteps, batch.timesteps - 25, alphas_cumprod=bar)
    later = (batch.timesteps - 25).clamp(min=0)

    @torch.no_grad()
    def x0_of(x: Tensor, timesteps: Tensor) -> Tensor:
        noise = run.student(x, timesteps, batch.prompt_embeds, return_dict=False)[0]
        return (x - (1 - bar[timesteps]).sqrt().view(-1, 1, 1, 1) * noise) / bar[timesteps].sqrt().view(-1, 1, 1, 1)

    with run.ema.applied():
        target = torch.cat([x_later[:1], x0_of(x_later, later)[1:]])
    expected = pseudo_huber(x0_of(noisy, batch.timesteps), target, delta=run.params.consistency_delta)
    torch.testing.assert_close(run.loss(batch).detach(), expected, rtol=1e-4, atol=1e-4)
    own = pseudo_huber(x0_of(noisy, batch.timesteps), x0_of(x_later, later), delta=run.params.consistency_delta)
    assert not torch.isclose(own, expected, rtol=1e-3)


def test_at_the_last_timestep_the_student_sees_what_sampling_starts_from(
    build: Build, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = build(add_params())
    batch = draw_consistency_batch(run.data, run.params, step=0)
    batch = replace(batch, timesteps=torch.full_like(batch.timesteps, 999))
    seen: list[Tensor] = []
    run.student.register_forward_pre_hook(lambda _module, inputs: seen.append(inputs[0].detach()))
    run.loss(batch)
    assert torch.equal(seen[-1], batch.noise)


def test_a_batch_is_of_the_pool_the_grid_and_the_step_alone(data: AddData) -> None:
    params = add_params(batch_size=200, consistency_steps=8)
    batch, again, other = (draw_consistency_batch(data, params, step=step) for step in (3, 3, 4))
    assert set(batch.timesteps.tolist()) == {124, 249, 374, 499, 624, 749, 874, 999}
    assert all(torch.equal(value, vars(again)[name]) for name, value in vars(batch).items())
    assert not torch.equal(batch.noise, other.noise)
    for x0, noise in zip(batch.x0[:8], batch.noise[:8], strict=True):
        (index,) = torch.where((data.train.x0 == x0).flatten(1).all(dim=1))
        assert not torch.allclose(noise, data.train.noise[index[0]])


def test_parts_of_a_batch_add_up_to_the_whole(build: Build) -> None:
    whole, parts = (build(add_params(accumulation_steps=number)) for number in (1, 3))
    for step in range(2):
        assert parts.train_step(step) == pytest.approx(whole.train_step(step), rel=1e-4)


def test_one_batch_is_overfitted(build: Build) -> None:
    run = build(add_params(learning_rate=4e-3))
    losses = [run.train_step(0)["consistency_loss"] for _ in range(30)]
    assert losses[-1] < 0.6 * losses[0]


def test_gradients_that_are_not_finite_are_skipped_and_counted(build: Build) -> None:
    run = build(add_params())
    run.data = replace(run.data, train=replace(run.data.train, x0=torch.full_like(run.data.train.x0, torch.nan)))
    student = weights(run.student)
    scalars = run.train_step(0)
    assert scalars["skipped_steps"] == 1 and scalars["student_grad_norm"] is None
    assert same(weights(run.student), student)


def test_alarms_are_those_of_samples_and_name_nothing_of_a_discriminator(
    build: Build, capsys: pytest.CaptureFixture[str]
) -> None:
    run = build(add_params())
    run.alarms.note_validation(1, colour_drift=0.0, diversity=1.0)
    run.alarms.note_validation(2, colour_drift=9.0, diversity=0.0)
    rung = {name: count for name, count in run.metrics().items() if name.startswith("alarms_")}
    counts = {"alarms_colour_drift": 1, "alarms_falling_diversity": 1}
    assert rung == counts | {f"{name}_since_step": 2 for name in counts}
    message = capsys.readouterr().err
    assert message.count("lower add.learning_rate") == 2 and "adv_weight" not in message


def test_a_student_that_cannot_sample_is_refused(build: Build) -> None:
    run = build(add_params())
    with torch.no_grad():
        run.student.conv_out.weight.mul_(-30)
    with pytest.raises(StageError, match="the student cannot sample"):
        run.refuse_hopeless()


def run_all(run: ConsistencyRun, folder: Path, *, stop_at: int | None = None) -> None:
    def train_step(step: int) -> Any:
        if step == stop_at:
            raise ConnectionAbortedError
        return run.train_step(step)

    run_steps(
        train_step,
        name="add",
        num_steps=run.params.num_steps,
        state=run.state(),
        validate=run.validate,
        validation_every_steps=run.params.validation_every_steps,
        checkpoint_dir=folder,
        curves_path=folder / "curves.tsv",
    )


def test_a_killed_run_resumes_bit_for_bit(build: Build, tmp_path: Path) -> None:
    whole, killed, resumed = (build(add_params(warmup_steps=3)) for _ in range(3))
    run_all(whole, tmp_path / "whole")
    with pytest.raises(ConnectionAbortedError):
        run_all(killed, tmp_path / "killed", stop_at=3)
    run_all(resumed, tmp_path / "killed")
    for name, item in whole.state().items():
        assert same(item.state_dict(), resumed.state()[name].state_dict()), name
    for name in ("curves.tsv", "curves_validation.tsv"):
        assert (tmp_path / "whole" / name).read_text() == (tmp_path / "killed" / name).read_text()
    assert whole.metrics() == resumed.metrics()


def test_distill_takes_the_method_that_is_named(
    tiny_pipeline_dir: Path, tiny_dataset_dir: Path, student_dir: Path, pool_path: Path, tmp_path: Path
) -> None:
    distill(
        tiny_dataset_dir,
        tiny_pipeline_dir,
        student_dir=student_dir,
        pool_path=pool_path,
        pool_steps=4,
        params=add_params(num_steps=2),
        precision="fp32",
        guidance_scale=3.0,
        student_scheduler="lcm",
        prompt_template=TEMPLATE,
        out_dir=tmp_path / "distilled",
        checkpoint_dir=tmp_path / "checkpoints",
        pool_cache_dir=tmp_path / "pool",
        curves_path=tmp_path / "curves.tsv",
        metrics_path=tmp_path / "add.json",
    )
    header = (tmp_path / "curves.tsv").read_text().splitlines()[0].split("\t")
    assert header == ["step", "consistency_loss", "skipped_steps", "student_grad_norm"]
    metrics = json.loads((tmp_path / "add.json").read_text())
    assert metrics["best_score"] <= metrics["start_score"]
    assert "discriminator_params" not in metrics
    assert UNet2DConditionModel.from_pretrained(tmp_path / "distilled").config.block_out_channels == [16, 32, 32]
