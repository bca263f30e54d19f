"""Noise predictions of the student and of its guided teacher."""

import torch

from naruto_add.diffusion.noise import alphas_cumprod
from naruto_add.diffusion.sampling import guided_noise_pred
from naruto_add.training.add.batch import draw_batch
from tests.training.add.build import GUIDANCE_SCALE, Build, add_params, has_no_gradient


def test_the_teacher_is_called_with_guidance_and_without_a_gradient(build: Build) -> None:
    trainer = build.trainer(add_params())
    batch = draw_batch(trainer.data, trainer.params, step=0)
    inputs = batch.x0.clone().requires_grad_()
    batch_sizes: list[int] = []
    build.bundle.unet.register_forward_pre_hook(lambda _module, args: batch_sizes.append(len(args[0])))
    noise = trainer.denoisers.teacher_noise(inputs, batch.renoised_timesteps, batch.prompt_embeds)
    assert batch_sizes == [2 * 6]  # conditional and unconditional in one batch
    assert not noise.requires_grad
    unguided, guided = (
        guided_noise_pred(
            build.bundle.unet,
            batch.x0,
            batch.renoised_timesteps,
            prompt_embeds=batch.prompt_embeds,
            negative_embeds=trainer.data.prompt_embeds[:1],
            guidance_scale=scale,
        )
        for scale in (1.0, GUIDANCE_SCALE)
    )
    torch.testing.assert_close(noise, guided)
    assert not torch.allclose(noise, unguided)


def test_x0_is_the_one_that_alpha_bar_implies(build: Build) -> None:
    denoisers = build.trainer(add_params()).denoisers
    batch = draw_batch(build.data(add_params()), add_params(), step=0)
    timesteps = torch.tensor([999, 749, 499, 249, 100, 0])
    bar = alphas_cumprod(build.bundle.scheduler)[timesteps].view(-1, 1, 1, 1)
    for predict_noise, predict_x0 in (
        (denoisers.student_noise, denoisers.student_x0),
        (denoisers.teacher_noise, denoisers.teacher_x0),
    ):
        noise = predict_noise(batch.noise, timesteps, batch.prompt_embeds)
        expected = (batch.noise - (1 - bar).sqrt() * noise) / bar.sqrt()
        torch.testing.assert_close(predict_x0(batch.noise, timesteps, batch.prompt_embeds), expected)


def test_the_students_gradient_reaches_all_of_its_weights_and_none_of_the_teachers(build: Build) -> None:
    trainer = build.trainer(add_params())
    batch = draw_batch(trainer.data, trainer.params, step=0)
    x0 = trainer.denoisers.student_x0(batch.noise, batch.renoised_timesteps, batch.prompt_embeds)
    x0.square().sum().backward()
    assert all(item.grad is not None for item in trainer.student.parameters())
    assert has_no_gradient(build.bundle.unet)
