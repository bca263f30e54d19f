"""The one sampler."""

import pytest
import torch

from naruto_add.diffusion.bundle import ModelBundle, decode_latents, encode_pixels, encode_prompts
from naruto_add.diffusion.sampling import (
    Sampler,
    fast_sampler,
    guided_noise_pred,
    initial_noise,
    make_student_scheduler,
    noise_pred,
    sample_latents,
)
from naruto_add.params_rules import trailing_timesteps


@pytest.mark.parametrize("kind", ["ddim", "lcm"])
@pytest.mark.parametrize("num_steps", [1, 2, 4, 8])
def test_student_scheduler_visits_the_trailing_timesteps(tiny_bundle: ModelBundle, kind: str, num_steps: int) -> None:
    scheduler = make_student_scheduler(tiny_bundle.scheduler, kind, num_steps)
    scheduler.set_timesteps(num_steps)
    assert scheduler.timesteps.tolist() == trailing_timesteps(num_steps)
    assert scheduler.init_noise_sigma == 1.0


def test_one_step_of_the_student_scheduler_gives_x0(tiny_bundle: ModelBundle) -> None:
    scheduler = make_student_scheduler(tiny_bundle.scheduler, "ddim", 4)
    scheduler.set_timesteps(4)
    x0, noise = torch.randn(2, 1, 4, 4, 4)
    alpha_bar = scheduler.alphas_cumprod[249]
    noisy = alpha_bar.sqrt() * x0 + (1 - alpha_bar).sqrt() * noise
    out = scheduler.step(noise, torch.tensor(249), noisy, return_dict=False)[0]
    torch.testing.assert_close(out, x0, atol=1e-5, rtol=1e-5)


def test_a_pictures_noise_depends_on_seed_and_index_alone(tiny_bundle: ModelBundle) -> None:
    assert torch.equal(initial_noise(tiny_bundle, 5, seed=1)[:2], initial_noise(tiny_bundle, 2, seed=1))
    assert not torch.equal(initial_noise(tiny_bundle, 1, seed=1), initial_noise(tiny_bundle, 1, seed=2))


def test_a_pictures_latents_do_not_depend_on_its_batch(tiny_bundle: ModelBundle) -> None:
    embeds, empty = encode_prompts(tiny_bundle, ["a man", "a girl"]), encode_prompts(tiny_bundle, [""])
    noise = initial_noise(tiny_bundle, 2, seed=0)
    sampler = Sampler(tiny_bundle.scheduler, 5, 3.0)
    both = sample_latents(tiny_bundle.unet, noise=noise, prompt_embeds=embeds, negative_embeds=empty, sampler=sampler)
    second = sample_latents(
        tiny_bundle.unet, noise=noise[1:], prompt_embeds=embeds[1:], negative_embeds=empty, sampler=sampler
    )
    torch.testing.assert_close(both[1:], second, atol=1e-4, rtol=1e-4)


def test_guidance_extrapolates_from_the_unconditional(tiny_bundle: ModelBundle) -> None:
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


def test_the_fast_sampler_agrees_with_many_steps(tiny_bundle: ModelBundle) -> None:
    embeds, empty = encode_prompts(tiny_bundle, ["a man"]), encode_prompts(tiny_bundle, [""])
    noise = initial_noise(tiny_bundle, 1, seed=0)
    drawn = [
        sample_latents(
            tiny_bundle.unet,
            noise=noise,
            prompt_embeds=embeds,
            negative_embeds=empty,
            sampler=fast_sampler(tiny_bundle, num_steps, 1.0),
        )
        for num_steps in (4, 25, 100)
    ]
    near, far = (drawn[1] - drawn[2]).norm(), (drawn[0] - drawn[2]).norm()
    assert near < far


def test_latents_are_scaled_both_ways(tiny_bundle: ModelBundle) -> None:
    pixels = torch.rand(2, 3, 32, 32) * 2 - 1
    latents = encode_pixels(tiny_bundle, pixels)
    unscaled = tiny_bundle.vae.encode(pixels).latent_dist.mean
    torch.testing.assert_close(latents, unscaled * tiny_bundle.vae.config.scaling_factor)
    decoded = decode_latents(tiny_bundle, latents)
    torch.testing.assert_close(decoded, tiny_bundle.vae.decode(unscaled).sample.clamp(-1, 1))


def test_the_last_layers_compute_in_fp32_under_autocast(tiny_bundle: ModelBundle) -> None:
    embeds, noisy = encode_prompts(tiny_bundle, ["a man"]), torch.randn(1, 4, 4, 4)
    seen = []
    hook = tiny_bundle.unet.conv_out.register_forward_hook(lambda _layer, inputs, output: seen.append((inputs, output)))
    with torch.no_grad(), torch.autocast("cpu", dtype=torch.bfloat16):
        noise_pred(tiny_bundle.unet, noisy, torch.tensor([999]), embeds)
    hook.remove()
    ((_,), output) = seen[0]
    assert output.dtype == torch.float32
    assert "forward" not in vars(tiny_bundle.unet.conv_out)
