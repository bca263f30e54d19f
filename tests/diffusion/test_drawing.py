"""A picture is a function of its prompt, noise and place, not of what is drawn beside it."""

import pytest
import torch
from torch import Tensor

from naruto_add.diffusion import drawing
from naruto_add.diffusion.bundle import ModelBundle, encode_prompts
from naruto_add.diffusion.drawing import draw_pixels
from naruto_add.diffusion.sampling import Sampler, fast_sampler, initial_noise, make_student_scheduler

PROMPTS = ["a man with white hair", "a girl at night", "a boy with a sword"]


def _pixels(bundle: ModelBundle, sampler: Sampler, places: range, *, seed: int = 0) -> Tensor:
    return draw_pixels(
        bundle,
        sampler,
        prompt_embeds=encode_prompts(bundle, PROMPTS)[places],
        noise=initial_noise(bundle, len(PROMPTS), seed=0)[places],
        seed=seed,
        places=places,
    )


def test_noise_between_steps_is_the_pictures_own(tiny_bundle: ModelBundle) -> None:
    sampler = Sampler(make_student_scheduler(tiny_bundle.scheduler, "lcm", 4), 4, guidance_scale=1.0)
    together = _pixels(tiny_bundle, sampler, range(3))
    alone = torch.cat([_pixels(tiny_bundle, sampler, range(place, place + 1)) for place in range(3)])
    torch.testing.assert_close(together, alone, rtol=0, atol=1e-4)
    assert not torch.allclose(together, _pixels(tiny_bundle, sampler, range(3), seed=1), atol=1e-2)


def test_the_empty_prompt_is_read_for_guidance_alone(tiny_bundle: ModelBundle, monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[list[str]] = []

    def encode(bundle: ModelBundle, prompts: list[str]) -> Tensor:
        read.append(prompts)
        return encode_prompts(bundle, prompts)

    monkeypatch.setattr(drawing, "encode_prompts", encode)
    unguided, guided = (
        _pixels(tiny_bundle, fast_sampler(tiny_bundle, 2, guidance_scale), range(3)) for guidance_scale in (1.0, 3.0)
    )
    assert read == [[""]]
    assert not torch.equal(unguided, guided)
