"""Where the Frechet distance of base and teacher arises: `python -m benchmarks.noise_levels`, after `dvc repro`.

Every real test picture is encoded, gets the noise of a timestep of DPM-Solver++, and is sampled from there with its
caption. In the first row nothing is sampled: it is the autoencoder's part of the distance. The higher the timestep, the
more of the picture the model decides; at 999 it gets hardly more than the caption.
"""

import copy

import torch
from torch import Tensor
from tqdm import tqdm

from benchmarks.compared import examples, load_compared
from naruto_add.comparison.subjects import Subject
from naruto_add.diffusion.bundle import decode_latents, encode_pixels, encode_prompts
from naruto_add.diffusion.sampling import BATCH, guided_noise_pred, initial_noise
from naruto_add.evaluation.drawings import load_images
from naruto_add.evaluation.features import extract_features, load_feature_network
from naruto_add.evaluation.frechet import frechet_distance
from naruto_add.imaging.pixels import Images, as_tensor, to_pixels, to_uint8
from naruto_add.runtime.compute import default_device

FRACTIONS = (0, 0.04, 0.12, 0.2, 0.4, 0.6, 0.8, 1)
"""By row: the last fraction of the steps of `evaluate.teacher_steps` that is sampled."""


def main() -> None:
    """Print the table: sampled steps, first timestep, the noise's deviation in x_t, each model's Frechet distance."""
    params, subjects = load_compared()
    test = examples(params, "test")
    prompts, images = [example.prompt for example in test], load_images(test)
    network = load_feature_network(params.evaluate.features, default_device())
    reference = extract_features(images, network)
    print("steps\ttimestep\tnoise\tbase\tteacher")
    for fraction in tqdm(FRACTIONS):
        num_sampled = round(fraction * params.evaluate.teacher_steps)
        found = []
        for name in ("base", "teacher"):
            drawn = redraw(subjects[name], prompts, images, num_sampled=num_sampled, seed=params.evaluate.seed)
            found.append(frechet_distance(extract_features(drawn, network), reference))
        timestep, deviation = noise_level(subjects["teacher"], num_sampled)
        print(f"{num_sampled}\t{timestep}\t{deviation:.3f}\t{found[0]:.1f}\t{found[1]:.1f}", flush=True)


def redraw(subject: Subject, prompts: list[str], images: Images, *, num_sampled: int, seed: int) -> Images:
    """The images with the noise of the last `num_sampled` steps added to their latents, and sampled from there."""
    bundle = subject.bundle
    with subject.on_device(), torch.no_grad():
        latents = encode_pixels(bundle, to_pixels(as_tensor(images)))
        noise = initial_noise(bundle, len(prompts), seed=seed)
        batches = [slice(first, first + BATCH) for first in range(0, len(prompts), BATCH)]
        drawn = [
            _sample(subject, latents[batch], noise[batch], prompts[batch], num_sampled=num_sampled) for batch in batches
        ]
        return to_uint8(decode_latents(bundle, torch.cat(drawn)))


def _sample(subject: Subject, latents: Tensor, noise: Tensor, prompts: list[str], *, num_sampled: int) -> Tensor:
    """x0 latents. The multistep scheduler begins with an empty history, as at its very first step."""
    if not num_sampled:
        return latents
    bundle, sampler = subject.bundle, subject.sampler
    scheduler = copy.deepcopy(sampler.scheduler)
    scheduler.set_timesteps(sampler.num_inference_steps, device=bundle.device)
    timesteps = scheduler.timesteps[-num_sampled:]
    scheduler.set_begin_index(len(scheduler.timesteps) - num_sampled)
    latents = scheduler.add_noise(latents, noise, timesteps[:1].expand(len(latents)))
    embeds, negative = encode_prompts(bundle, prompts), encode_prompts(bundle, [""])
    for timestep in timesteps:
        predicted = guided_noise_pred(
            bundle.unet,
            latents,
            timestep.expand(len(latents)),
            prompt_embeds=embeds,
            negative_embeds=negative,
            guidance_scale=sampler.guidance_scale,
        )
        latents = scheduler.step(predicted, timestep, latents, return_dict=False)[0]
    return latents


def noise_level(subject: Subject, num_sampled: int) -> tuple[str, float]:
    """The timestep of the first of the last `num_sampled` steps, and the standard deviation of the noise in x_t."""
    if not num_sampled:
        return "none", 0.0
    scheduler = copy.deepcopy(subject.sampler.scheduler)
    scheduler.set_timesteps(subject.sampler.num_inference_steps)
    timestep = int(scheduler.timesteps[-num_sampled])
    return str(timestep), float((1 - scheduler.alphas_cumprod[timestep]).sqrt())


if __name__ == "__main__":
    main()
