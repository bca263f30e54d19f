"""A picture depends on its prompt, noise and index, and not on the rest of its batch."""

import torch
from torch import Tensor

from naruto_add.comparison.draw import draw_pixels
from naruto_add.diffusion.bundle import ModelBundle, encode_prompts
from naruto_add.diffusion.sampling import Sampler, dpm_solver_sampler, initial_noise, make_student_scheduler

PROMPTS = ["a man with white hair", "a girl at night", "a boy with a sword"]


def _pixels(bundle: ModelBundle, sampler: Sampler, indices: range, *, seed: int = 0) -> Tensor:
    return draw_pixels(
        bundle,
        sampler,
        prompt_embeds=encode_prompts(bundle, PROMPTS)[indices],
        noise=initial_noise(bundle, len(PROMPTS), seed=0)[indices],
        seed=seed,
        indices=indices,
    )


def test_noise_between_steps_depends_on_seed_and_index_and_not_on_the_batch(tiny_bundle: ModelBundle) -> None:
    sampler = Sampler(make_student_scheduler(tiny_bundle.scheduler, "lcm", 4), 4, guidance_scale=1.0)

    together = _pixels(tiny_bundle, sampler, range(3))
    alone = torch.cat([_pixels(tiny_bundle, sampler, range(index, index + 1)) for index in range(3)])

    torch.testing.assert_close(together, alone, rtol=0, atol=1e-4)
    assert not torch.allclose(together, _pixels(tiny_bundle, sampler, range(3), seed=1), atol=1e-2)


def test_only_guidance_encodes_the_empty_prompt(tiny_bundle: ModelBundle) -> None:
    num_encoded: list[int] = []
    tiny_bundle.text_encoder.register_forward_hook(lambda _, args, out: num_encoded.append(len(out[0])))

    unguided = _pixels(tiny_bundle, dpm_solver_sampler(tiny_bundle, 2, 1.0), range(3))
    guided = _pixels(tiny_bundle, dpm_solver_sampler(tiny_bundle, 2, 3.0), range(3))

    assert num_encoded == [3, 3, 1]  # the prompts, the prompts again, the empty prompt
    assert not torch.equal(unguided, guided)
