"""The student's inputs, its targets, and the distillation losses."""

from dataclasses import replace

import pytest
import torch

from naruto_add.config.schema import StudentScheduler
from naruto_add.diffusion.noise import alphas_cumprod
from naruto_add.diffusion.sampling import Sampler, make_student_scheduler, sample_latents
from naruto_add.training.add.batch import draw_batch
from naruto_add.training.pool import load_pool
from tests.closed_forms import noise_pred_from_x0
from tests.training.add.build import TIMESTEPS, Build, add_params, has_no_gradient, x0_of

# Targets and losses


def test_a_pairs_target_at_the_last_timestep_is_the_teachers_sample_of_the_same_noise(build: Build) -> None:
    trainer = build.trainer(add_params())
    batch = draw_batch(trainer.data, trainer.params, step=0)
    pool = load_pool(build.pool_path)
    for noise, x0 in zip(batch.noise, batch.x0, strict=True):
        (index,) = torch.where((pool.noise == noise).flatten(1).all(dim=1))
        assert torch.equal(pool.x0[index[0]], x0)
    batch = replace(batch, step_index=torch.full_like(batch.step_index, 3))
    target = trainer.objective.pair_target(trainer.objective.student_inputs(batch), batch)
    torch.testing.assert_close(target, batch.x0, rtol=1e-3, atol=1e-3)
    assert trainer.objective.pair_loss(batch.x0, batch.x0, batch).item() == 0
    assert trainer.objective.pair_loss(batch.x0 + 0.5, batch.x0, batch).item() == pytest.approx(0.125)


def test_the_pair_loss_is_the_distance_of_the_next_states_of_student_and_teacher(build: Build) -> None:
    """For the teacher's states and for the student's own, with a step of the student's scheduler."""
    trainer = build.trainer(add_params(rollout_fraction=0.5))
    batch = draw_batch(trainer.data, trainer.params, step=0)
    batch = replace(batch, step_index=torch.tensor([0, 0, 1, 2, 3, 3]))
    inputs = trainer.objective.student_inputs(batch)
    x0 = trainer.objective.predict_x0(inputs, batch).detach()
    loss = trainer.objective.pair_loss(x0, trainer.objective.pair_target(inputs, batch), batch)
    scheduler, bar = trainer.sampler.scheduler, alphas_cumprod(build.bundle.scheduler)
    scheduler.set_timesteps(4)
    next_states = torch.cat([batch.states, batch.x0[:, None]], dim=1)
    distances = []
    for item, index in enumerate(batch.step_index.tolist()):
        timestep = scheduler.timesteps[index]
        noise = noise_pred_from_x0(inputs[[item]], x0[[item]], timestep[None], alphas_cumprod=bar)
        next_state = scheduler.step(noise, timestep, inputs[[item]]).prev_sample
        distances.append(torch.nn.functional.smooth_l1_loss(next_state, next_states[[item], index]))
    assert loss.item() == pytest.approx(torch.stack(distances).mean().item(), rel=1e-3)


def test_with_lcm_the_pair_loss_is_the_distance_to_the_teachers_x0(build: Build) -> None:
    trainer = build.trainer(add_params(), scheduler="lcm")
    batch = draw_batch(trainer.data, trainer.params, step=0)
    inputs = trainer.objective.student_inputs(batch)
    assert trainer.objective.pair_target(inputs, batch) is batch.x0
    assert trainer.objective.pair_loss(batch.x0 + 0.5, batch.x0, batch).item() == pytest.approx(0.125)


def test_the_renoised_loss_is_weighted_by_alpha_and_has_a_gradient_only_to_the_student(build: Build) -> None:
    trainer = build.trainer(add_params())
    batch = draw_batch(trainer.data, trainer.params, step=0)
    batch = replace(batch, renoised_weight=torch.ones_like(batch.renoised_weight))
    x0 = batch.x0.clone().requires_grad_()
    loss = trainer.objective.renoised_loss(x0, batch)
    loss.backward()
    bar = alphas_cumprod(build.bundle.scheduler)[batch.renoised_timesteps].view(-1, 1, 1, 1)
    noisy = bar.sqrt() * batch.x0 + (1 - bar).sqrt() * batch.renoised_noise
    target = trainer.denoisers.teacher_x0(noisy, batch.renoised_timesteps, batch.prompt_embeds)
    distance = torch.nn.functional.smooth_l1_loss(batch.x0, target, reduction="none").flatten(1).mean(dim=1)
    torch.testing.assert_close(loss.detach(), (bar.flatten().sqrt() * distance).mean())
    assert x0.grad is not None and x0.grad.flatten(1).any(dim=1).all()
    assert has_no_gradient(build.bundle.unet)


def test_the_renoised_loss_calls_the_teacher_only_for_its_fraction(build: Build) -> None:
    batch_sizes: list[int] = []
    build.bundle.unet.register_forward_pre_hook(lambda _module, args: batch_sizes.append(len(args[0])))
    for values in ({}, {"renoised_weight": 0.0}):
        trainer = build.trainer(add_params(**values))
        batch = draw_batch(trainer.data, trainer.params, step=0)
        loss = trainer.objective.renoised_loss(batch.x0, batch)
    assert batch_sizes == [2 * 2]  # of six items, a quarter
    assert loss.item() == 0


# Inputs


def test_inputs_are_states_of_the_teachers_trajectory(build: Build) -> None:
    trainer = build.trainer(add_params(rollout_fraction=0.0))
    batch = draw_batch(trainer.data, trainer.params, step=0)
    batch = replace(batch, step_index=torch.tensor([0, 1, 2, 3, 0, 1]))
    inputs = trainer.objective.student_inputs(batch)
    assert torch.equal(inputs[[0, 4]], batch.noise[[0, 4]])
    assert all(torch.equal(inputs[item], batch.states[item, item - 1]) for item in (1, 2, 3))


def test_with_lcm_inputs_are_noised_with_the_schedulers_alphas_and_pure_noise_at_the_first_timestep(
    build: Build,
) -> None:
    trainer = build.trainer(add_params(rollout_fraction=0.0), scheduler="lcm")
    batch = draw_batch(trainer.data, trainer.params, step=0)
    batch = replace(batch, step_index=torch.arange(6) % 4)
    inputs = trainer.objective.student_inputs(batch)
    expected = build.bundle.scheduler.add_noise(
        batch.x0, batch.fresh_noise[:, 0], torch.tensor(TIMESTEPS)[batch.step_index]
    )
    is_first = batch.step_index == 0
    torch.testing.assert_close(inputs[~is_first], expected[~is_first])
    assert torch.equal(inputs[is_first], batch.noise[is_first])


@pytest.mark.parametrize("scheduler", ["ddim", "lcm"])
def test_a_rollout_to_the_last_timestep_gives_the_samplers_picture(build: Build, scheduler: StudentScheduler) -> None:
    trainer = build.trainer(add_params(rollout_fraction=1.0), scheduler=scheduler)
    batch = draw_batch(trainer.data, trainer.params, step=0)
    generators = [torch.Generator().manual_seed(item) for item in range(len(batch.noise))]
    drawn = torch.stack([torch.randn(3, *build.bundle.latent_shape, generator=each) for each in generators])
    fresh_noise = torch.cat([torch.zeros_like(drawn[:, :1]), drawn], dim=1)
    batch = replace(batch, step_index=torch.full_like(batch.step_index, 3), fresh_noise=fresh_noise)
    expected = sample_latents(
        trainer.student,
        noise=batch.noise,
        prompt_embeds=batch.prompt_embeds,
        negative_embeds=trainer.data.prompt_embeds[:1],
        sampler=Sampler(make_student_scheduler(build.bundle.scheduler, scheduler, 4), 4, guidance_scale=1.0),
        generators=[torch.Generator().manual_seed(item) for item in range(len(batch.noise))],
    )
    torch.testing.assert_close(x0_of(trainer, batch).detach(), expected, rtol=1e-4, atol=1e-4)


def test_rollouts_have_no_gradient_and_keep_the_noise_at_the_first_timestep(build: Build) -> None:
    trainer = build.trainer(add_params(rollout_fraction=1.0))
    batch = draw_batch(trainer.data, trainer.params, step=0)
    assert not trainer.objective.student_inputs(batch).requires_grad
    first = replace(batch, step_index=torch.zeros_like(batch.step_index))
    assert torch.equal(trainer.objective.student_inputs(first), batch.noise)
