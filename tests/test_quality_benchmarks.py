"""The benchmarks of picture quality: where the distance of the teacher arises, and distances by other networks."""

from typing import Any, Literal

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torchvision import models

from benchmarks import noise_levels, unrelated_networks
from naruto_add.comparison.image_sets import draw_set, encode_and_decode
from naruto_add.comparison.subjects import Subject
from naruto_add.diffusion.bundle import ModelBundle, encode_pixels
from naruto_add.diffusion.sampling import dpm_solver_sampler
from naruto_add.evaluation.features import extract_features
from naruto_add.imaging.pixels import Images, as_tensor, to_pixels

PROMPTS = ["a boy", "a girl at night"]


@pytest.fixture
def subject(tiny_bundle: ModelBundle) -> Subject:
    return Subject(tiny_bundle, dpm_solver_sampler(tiny_bundle, 25, 3.0), "weights")


@pytest.fixture
def images() -> Images:
    return np.random.default_rng(0).integers(0, 256, (2, 32, 32, 3), dtype=np.uint8)


def test_without_sampling_a_picture_is_the_autoencoders_copy(subject: Subject, images: Images) -> None:
    drawn = noise_levels.redraw(subject, PROMPTS, images, num_sampled=0, seed=0)
    np.testing.assert_array_equal(drawn, encode_and_decode(subject.bundle, images))
    assert noise_levels.noise_level(subject, 0) == ("none", 0.0)


@pytest.mark.parametrize(("num_sampled", "timestep", "noise"), [(1, 39, 0.193), (25, 999, 0.998)])
def test_only_the_last_steps_are_sampled_from_their_noise(
    num_sampled: int, timestep: int, noise: float, subject: Subject, images: Images, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With a model that knows the picture, what is drawn is the autoencoder's copy, whatever was the noise."""
    latents = encode_pixels(subject.bundle, to_pixels(as_tensor(images)))
    visited: list[int] = []

    def exact(unet: nn.Module, noisy: Tensor, timesteps: Tensor, **_: Any) -> Tensor:
        visited.append(int(timesteps[0]))
        alpha_bar = subject.sampler.scheduler.alphas_cumprod[timesteps].view(-1, 1, 1, 1)
        return (noisy - alpha_bar.sqrt() * latents) / (1 - alpha_bar).sqrt()

    monkeypatch.setattr(noise_levels, "guided_noise_pred", exact)
    drawn = noise_levels.redraw(subject, PROMPTS, images, num_sampled=num_sampled, seed=0)
    copies = encode_and_decode(subject.bundle, images)
    np.testing.assert_allclose(drawn.astype(float), copies.astype(float), atol=1)
    assert (len(visited), visited[0]) == (num_sampled, timestep)
    assert noise_levels.noise_level(subject, num_sampled) == (str(timestep), pytest.approx(noise, abs=5e-4))


def test_all_steps_from_pure_noise_are_sampling(
    subject: Subject, images: Images, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The benchmark's own loop draws what the pipeline draws."""
    monkeypatch.setattr(type(subject.sampler.scheduler), "add_noise", lambda self, latents, noise, timesteps: noise)
    drawn = noise_levels.redraw(subject, PROMPTS, images, num_sampled=25, seed=3)
    np.testing.assert_array_equal(drawn, draw_set(subject, PROMPTS, seed=3, batch_size=2))


@pytest.mark.parametrize(("trunk", "width"), [("alex", 256), ("squeeze", 512)])
def test_a_network_has_torchvisions_weights(
    trunk: Literal["alex", "squeeze"], width: int, images: Images, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The classifier's weights, which the file has too, are not needed."""
    trained = {"alex": models.alexnet, "squeeze": models.squeezenet1_1}[trunk](weights=None).eval()
    monkeypatch.setattr(unrelated_networks, "trunk_weights", lambda name: trained.state_dict())
    network = unrelated_networks.trunk_network(trunk)
    features = extract_features(images, network)
    assert features.shape == (2, width)
    pixels = torch.nn.functional.interpolate(
        torch.from_numpy(images).permute(0, 3, 1, 2).float(), size=(224, 224), mode="bicubic", antialias=True
    ).clamp(0, 255)
    mean, std = (torch.tensor(each).view(1, 3, 1, 1) for each in ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)))
    with torch.no_grad():
        expected = trained.features((pixels / 255 - mean) / std).mean(dim=(2, 3))
    np.testing.assert_allclose(features, expected, rtol=1e-3, atol=1e-5)
