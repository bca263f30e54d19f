"""The student's side of a step: what it is shown, what it is pulled towards, and how far it is from there."""

from dataclasses import replace

import pytest
import torch

from naruto_add.diffusion.noise import alphas_cumprod
from naruto_add.diffusion.sampling import (
    Sampler,
    fast_sampler,
    guided_noise_pred,
    make_student_scheduler,
    sample_latents,
)
from naruto_add.params import StudentScheduler
from naruto_add.training.add import distiller
from naruto_add.training.add.inputs import draw_batch
from naruto_add.training.add.pixels import decoded_squares
from naruto_add.training.pool import load_pool
from tests.closed_forms import noise_pred_from_x0
from tests.training.add.build import PROFILE, Build, add_params, no_gradient, x0_of

# The student and the teacher


def test_fault_3_the_teacher_is_called_with_guidance(build: Build) -> None:
    run = build.run(add_params(renoised_fraction=0.5))
    sizes: list[int] = []
    build.bundle.unet.register_forward_pre_hook(lambda _module, inputs: sizes.append(len(inputs[0])))
    batch = draw_batch(run.data, run.params, step=0)
    part = batch.part(slice(3))
    x0_teacher = run.distiller.teacher_x0(part.x0, part)
    assert sizes == [2 * 3]  # conditional and unconditional in one batch
    bar = alphas_cumprod(build.bundle.scheduler)[part.renoised_timesteps].view(-1, 1, 1, 1)
    noisy = bar.sqrt() * part.x0 + (1 - bar).sqrt() * part.renoised_noise
    unguided, guided = (
        guided_noise_pred(
            build.bundle.unet,
            noisy,
            part.renoised_timesteps,
            prompt_embeds=part.prompt_embeds,
            negative_embeds=run.data.prompt_embeds[:1],
            guidance_scale=scale,
        )
        for scale in (1.0, run.distiller.guidance_scale)
    )
    torch.testing.assert_close(x0_teacher, (noisy - (1 - bar).sqrt() * guided) / bar.sqrt())
    assert not torch.allclose(unguided, guided)


def test_fault_3_the_target_is_the_teachers_sample_from_the_same_noise(build: Build) -> None:
    run = build.run(add_params(renoised_weight=0.0))
    batch = draw_batch(run.data, run.params, step=0)
    pool = load_pool(build.pool_path)
    for noise, x0 in zip(batch.noise, batch.x0, strict=True):
        (index,) = torch.where((pool.noise == noise).flatten(1).all(dim=1))
        torch.testing.assert_close(pool.x0[index[0]], x0)
    batch = replace(batch, step_index=torch.full_like(batch.step_index, 3))  # where the next state is the sample
    target = run.distiller.pair_target(run.distiller.student_inputs(batch), batch)
    torch.testing.assert_close(target, batch.x0, rtol=1e-3, atol=1e-3)
    assert run.distiller.distillation_losses(batch.x0, batch, pair_target=batch.x0)[0].item() == 0
    pair_loss, _ = run.distiller.distillation_losses(batch.x0 + 0.5, batch, pair_target=batch.x0)
    assert pair_loss.item() == pytest.approx(0.125)


def test_the_pair_loss_is_a_distance_of_the_states_that_the_students_and_the_teachers_steps_lead_to(
    build: Build,
) -> None:
    """From the teacher's states and from the student's own alike, by the student's own scheduler."""
    run = build.run(add_params(rollout_fraction=0.5, renoised_weight=0.0))
    batch = draw_batch(run.data, run.params, step=0)
    batch = replace(batch, step_index=torch.tensor([0, 0, 1, 2, 3, 3]))
    noisy = run.distiller.student_inputs(batch)
    x0 = run.distiller.x0_of(noisy, batch).detach()
    loss, _ = run.distiller.distillation_losses(x0, batch, pair_target=run.distiller.pair_target(noisy, batch))
    scheduler, bar = run.sampler.scheduler, alphas_cumprod(build.bundle.scheduler)
    scheduler.set_timesteps(4)
    way = torch.cat([batch.states, batch.x0[:, None]], dim=1)
    distances = []
    for item, place in enumerate(batch.step_index.tolist()):
        timestep = scheduler.timesteps[place]
        noise = noise_pred_from_x0(noisy[[item]], x0[[item]], timestep[None], alphas_cumprod=bar)
        arrived = scheduler.step(noise, timestep, noisy[[item]]).prev_sample
        distances.append(torch.nn.functional.smooth_l1_loss(arrived, way[[item], place]))
    assert loss.item() == pytest.approx(torch.stack(distances).mean().item(), rel=1e-3)


def test_the_renoised_loss_weighs_by_alpha_and_moves_only_the_student(build: Build) -> None:
    run = build.run(add_params(renoised_fraction=1.0))
    batch = draw_batch(run.data, run.params, step=0)
    x0 = batch.x0.clone().requires_grad_()
    loss = run.distiller.distillation_losses(x0, batch, pair_target=batch.x0)[1]
    loss.backward()
    alpha = alphas_cumprod(build.bundle.scheduler)[batch.renoised_timesteps].sqrt()
    distance = torch.nn.functional.smooth_l1_loss(batch.x0, run.distiller.teacher_x0(batch.x0, batch), reduction="none")
    torch.testing.assert_close(loss.detach(), (alpha * distance.flatten(1).mean(dim=1)).mean())
    assert x0.grad is not None and x0.grad.any()
    assert no_gradient(build.bundle.unet)


def test_the_renoised_loss_can_be_one_of_pixels(build: Build) -> None:
    """The paper's: decoded squares of both, weighted alike, with a gradient through the student's side alone."""
    run = build.run(add_params(renoised_fraction=1.0, renoised_space="pixel", renoised_crop_px=32))
    batch = draw_batch(run.data, run.params, step=0)
    x0 = batch.x0.clone().requires_grad_()
    loss = run.distiller.distillation_losses(x0, batch, pair_target=batch.x0)[1]
    loss.backward()
    alpha = alphas_cumprod(build.bundle.scheduler)[batch.renoised_timesteps].sqrt()
    with torch.no_grad():
        seen, target = (
            decoded_squares(build.bundle.vae, item, batch.crop_corner, side_px=32)
            for item in (batch.x0, run.distiller.teacher_x0(batch.x0, batch))
        )
    distance = torch.nn.functional.smooth_l1_loss(seen, target, reduction="none").flatten(1).mean(dim=1)
    torch.testing.assert_close(loss.detach(), (alpha * distance).mean())
    assert x0.grad is not None and x0.grad.flatten(1).any(dim=1).all()
    assert no_gradient(build.bundle.unet) and no_gradient(build.bundle.vae)


def test_a_solved_target_is_the_teachers_way_on_from_what_the_student_saw(build: Build) -> None:
    """From pure noise it is the teacher's sample; elsewhere it follows the student's own way."""
    run = build.run(add_params(pair_target="solve", solve_steps=2, rollout_fraction=1.0))
    batch = draw_batch(run.data, run.params, step=0)
    noisy = run.distiller.student_inputs(batch)
    target = run.distiller.pair_target(noisy, batch)
    assert not target.requires_grad and no_gradient(build.bundle.unet)
    others = run.distiller.pair_target(noisy + 0.5, batch)
    assert ((others - target).abs().flatten(1).amax(dim=1) > 0.01).all()
    first = replace(batch, step_index=torch.zeros_like(batch.step_index))
    expected = sample_latents(
        build.bundle.unet,
        noise=batch.noise,
        prompt_embeds=batch.prompt_embeds,
        negative_embeds=run.data.prompt_embeds[:1],
        sampler=fast_sampler(build.bundle, 2, PROFILE.sampling.guidance_scale),
    )
    torch.testing.assert_close(run.distiller.pair_target(batch.noise, first), expected, rtol=1e-3, atol=1e-3)
    lcm = build.run(add_params(), scheduler="lcm")
    assert lcm.distiller.pair_target(noisy, batch) is batch.x0


def test_pair_and_perceptual_loss_compare_with_the_target_that_is_named(build: Build) -> None:
    run = build.run(add_params(perceptual_weight=1.0, perceptual_crop_px=32))
    batch = draw_batch(run.data, run.params, step=0)
    x0 = batch.x0 + 0.5
    reached, missed = (run.distiller.losses(x0, batch, pair_target=target) for target in (x0, batch.x0))
    assert [reached[name].item() for name in ("pair_loss", "perceptual_loss")] == [0.0, 0.0]
    assert min(missed[name].item() for name in ("pair_loss", "perceptual_loss")) > 0


def test_the_losses_of_pictures_are_of_what_is_judged(build: Build) -> None:
    """Items that are not have x0 at early timesteps, which show nothing."""
    run = build.run(add_params(perceptual_weight=1.0, perceptual_crop_px=32, judged_fraction=0.5))
    batch = draw_batch(run.data, run.params, step=0)
    x0 = batch.x0.clone().requires_grad_()
    run.distiller.losses(x0, batch, pair_target=batch.x0 - 0.5)["perceptual_loss"].backward()
    assert x0.grad is not None
    assert (x0.grad.flatten(1).abs().sum(dim=1) > 0).tolist() == (batch.judged_weight > 0).tolist()


# Noise and timesteps


def test_fault_4_x0_is_the_one_that_alpha_bar_implies(build: Build, monkeypatch: pytest.MonkeyPatch) -> None:
    """A student that predicts the noise of a noised sample has its x0 at every trained timestep but pure noise."""
    run = build.run(add_params(timesteps=[749, 499, 249], rollout_fraction=0.0))
    batch = draw_batch(run.data, run.params, step=0)
    is_first = (batch.step_index == 0).view(-1, 1, 1, 1)
    monkeypatch.setattr(distiller, "noise_pred", lambda *_: batch.noise.where(is_first, batch.fresh_noise[:, 0]))
    torch.testing.assert_close(x0_of(run, batch), batch.x0, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("scheduler", ["ddim", "lcm"])
def test_fault_4_rollouts_are_what_the_students_own_sampler_does(build: Build, scheduler: StudentScheduler) -> None:
    """All the way through the last trained timestep, the student's x0 is the sampler's picture."""
    run = build.run(add_params(rollout_fraction=1.0), scheduler=scheduler)
    batch = draw_batch(run.data, run.params, step=0)
    generators = [torch.Generator().manual_seed(item) for item in range(len(batch.noise))]
    drawn = torch.stack([torch.randn(3, *build.bundle.latent_shape, generator=each) for each in generators])
    fresh = torch.cat([torch.zeros_like(drawn[:, :1]), drawn], dim=1)
    batch = replace(batch, step_index=torch.full_like(batch.step_index, 3), fresh_noise=fresh)
    expected = sample_latents(
        run.student,
        noise=batch.noise,
        prompt_embeds=batch.prompt_embeds,
        negative_embeds=run.data.prompt_embeds[:1],
        sampler=Sampler(make_student_scheduler(build.bundle.scheduler, scheduler, 4), 4, guidance_scale=1.0),
        generators=[torch.Generator().manual_seed(item) for item in range(len(batch.noise))],
    )
    torch.testing.assert_close(x0_of(run, batch).detach(), expected, rtol=1e-4, atol=1e-4)


def test_rollouts_carry_no_gradient(build: Build) -> None:
    run = build.run(add_params(rollout_fraction=1.0))
    assert not run.distiller.student_inputs(draw_batch(run.data, run.params, step=0)).requires_grad


def test_fault_7_inputs_are_noised_with_the_schedulers_alphas(build: Build) -> None:
    run = build.run(add_params(rollout_fraction=0.0), scheduler="lcm")
    batch = draw_batch(run.data, run.params, step=0)
    batch = replace(batch, step_index=torch.arange(6) % 4)
    noisy = run.distiller.student_inputs(batch)
    timesteps = torch.tensor(run.params.timesteps)[batch.step_index]
    expected = build.bundle.scheduler.add_noise(batch.x0, batch.fresh_noise[:, 0], timesteps)
    is_first = batch.step_index == 0
    torch.testing.assert_close(noisy[~is_first], expected[~is_first])
    assert torch.equal(noisy[is_first], batch.noise[is_first])  # what sampling starts from


def test_inputs_are_states_of_the_teachers_way(build: Build) -> None:
    run = build.run(add_params(rollout_fraction=0.0))
    batch = draw_batch(run.data, run.params, step=0)
    batch = replace(batch, step_index=torch.tensor([0, 1, 2, 3, 0, 1]))
    noisy = run.distiller.student_inputs(batch)
    assert torch.equal(noisy[[0, 4]], batch.noise[[0, 4]])
    assert all(torch.equal(noisy[item], batch.states[item, item - 1]) for item in (1, 2, 3))
    without = replace(batch, states=batch.states[:, :0])  # a pool that nobody drew: noised afresh
    assert torch.equal(run.distiller.pair_target(noisy, without), batch.x0)
    assert not torch.allclose(run.distiller.student_inputs(without)[1], noisy[1])


def test_items_at_the_first_timestep_start_from_the_stored_noise_in_a_rollout_too(build: Build) -> None:
    run = build.run(add_params(rollout_fraction=1.0))
    batch = draw_batch(run.data, run.params, step=0)
    batch = replace(batch, step_index=torch.zeros_like(batch.step_index))
    assert torch.equal(run.distiller.student_inputs(batch), batch.noise)
