"""The sampler: timesteps of schedulers, reproducible pictures, and guidance."""

import pytest
import torch

from naruto_add.config.constants import trailing_timesteps
from naruto_add.diffusion.bundle import ModelBundle, encode_prompts
from naruto_add.diffusion.sampling import (
    Sampler,
    dpm_solver_sampler,
    guided_noise_pred,
    initial_noise,
    make_student_scheduler,
    sample_latents,
)


@pytest.mark.parametrize("kind", ["ddim", "lcm"])
@pytest.mark.parametrize("num_steps", [1, 2, 4, 8])
def test_the_students_scheduler_visits_the_trailing_timesteps(
    tiny_bundle: ModelBundle, kind: str, num_steps: int
) -> None:
    scheduler = make_student_scheduler(tiny_bundle.scheduler, kind, num_steps)
    scheduler.set_timesteps(num_steps)
    assert scheduler.timesteps.tolist() == trailing_timesteps(num_steps)
    assert scheduler.init_noise_sigma == 1.0


def test_the_last_step_of_the_students_scheduler_gives_x0(tiny_bundle: ModelBundle) -> None:
    scheduler = make_student_scheduler(tiny_bundle.scheduler, "ddim", 4)
    scheduler.set_timesteps(4)
    x0, noise = torch.randn(2, 1, 4, 4, 4)
    alpha_bar = scheduler.alphas_cumprod[249]
    noisy = alpha_bar.sqrt() * x0 + (1 - alpha_bar).sqrt() * noise
    out = scheduler.step(noise, torch.tensor(249), noisy, return_dict=False)[0]
    torch.testing.assert_close(out, x0, atol=1e-5, rtol=1e-5)


def test_the_noise_of_a_picture_depends_only_on_seed_and_index(tiny_bundle: ModelBundle) -> None:
    assert torch.equal(initial_noise(tiny_bundle, 5, seed=1)[:2], initial_noise(tiny_bundle, 2, seed=1))
    assert not torch.equal(initial_noise(tiny_bundle, 1, seed=1), initial_noise(tiny_bundle, 1, seed=2))


def test_the_latents_of_a_picture_do_not_depend_on_its_batch(tiny_bundle: ModelBundle) -> None:
    embeds, empty = encode_prompts(tiny_bundle, ["a man", "a girl"]), encode_prompts(tiny_bundle, [""])
    noise = initial_noise(tiny_bundle, 2, seed=0)
    sampler = Sampler(tiny_bundle.scheduler, 5, 3.0)
    both = sample_latents(tiny_bundle.unet, noise=noise, prompt_embeds=embeds, negative_embeds=empty, sampler=sampler)
    second = sample_latents(
        tiny_bundle.unet, noise=noise[1:], prompt_embeds=embeds[1:], negative_embeds=empty, sampler=sampler
    )
    torch.testing.assert_close(both[1:], second, atol=1e-4, rtol=1e-4)


def test_guidance_extrapolates_from_the_unconditional_prediction(tiny_bundle: ModelBundle) -> None:
    embeds, empty = encode_prompts(tiny_bundle, ["a man"]), encode_prompts(tiny_bundle, [""])
    noisy, timesteps = torch.randn(1, 4, 4, 4), torch.tensor([500])

    def predict(scale: float, prompt: torch.Tensor) -> torch.Tensor:
        with torch.no_grad():
            return guided_noise_pred(
                tiny_bundle.unet, noisy, timesteps, prompt_embeds=prompt, negative_embeds=empty, guidance_scale=scale
            )

    conditional, unconditional = predict(1.0, embeds), predict(1.0, empty)
    expected = unconditional + 4.0 * (conditional - unconditional)
    torch.testing.assert_close(predict(4.0, embeds), expected, atol=1e-5, rtol=1e-5)


def test_more_steps_of_dpm_solver_are_closer_to_many_steps(tiny_bundle: ModelBundle) -> None:
    embeds, empty = encode_prompts(tiny_bundle, ["a man"]), encode_prompts(tiny_bundle, [""])
    noise = initial_noise(tiny_bundle, 1, seed=0)
    drawn = [
        sample_latents(
            tiny_bundle.unet,
            noise=noise,
            prompt_embeds=embeds,
            negative_embeds=empty,
            sampler=dpm_solver_sampler(tiny_bundle, num_steps, 1.0),
        )
        for num_steps in (4, 12, 40)
    ]
    near, far = (drawn[1] - drawn[2]).norm(), (drawn[0] - drawn[2]).norm()
    assert near < far
