"""Where the Frechet distance of base and teacher arises: `python -m benchmarks.noise_levels`, after `dvc repro`.

Every real test picture is encoded, gets the noise of a timestep of DPM-Solver++, and is sampled from there with its
caption. At timestep 0 nothing is sampled: that row is the autoencoder's part of the distance. The later the timestep,
the more of the picture the model decides; after the last one it is given only the caption.
"""

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

NUM_SAMPLED = [0, 1, 3, 5, 10, 15, 20, 25]
"""Last steps of 25 that are sampled, by row."""


def main() -> None:
    """Print the table: the timestep, the noise's standard deviation in x_t, and each model's Frechet distance."""
    params, subjects = load_compared()
    test = examples(params, "test")
    prompts, images = [example.prompt for example in test], load_images(test)
    network = load_feature_network(params.evaluate.features, default_device())
    reference = extract_features(images, network)
    print("timestep\tnoise\tbase\tteacher")
    for num_sampled in tqdm(NUM_SAMPLED):
        found = []
        for name in ("base", "teacher"):
            drawn = redraw(subjects[name], prompts, images, num_sampled=num_sampled, seed=params.evaluate.seed)
            found.append(frechet_distance(extract_features(drawn, network), reference))
        timestep, deviation = noise_level(subjects["teacher"], num_sampled)
        print(f"{timestep}\t{deviation:.3f}\t{found[0]:.1f}\t{found[1]:.1f}", flush=True)


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
    """x0 latents. The scheduler's history is empty at its first step here, as at the first step of all."""
    bundle, sampler = subject.bundle, subject.sampler
    scheduler = type(sampler.scheduler).from_config(sampler.scheduler.config)
    scheduler.set_timesteps(sampler.num_inference_steps, device=bundle.device)
    timesteps = scheduler.timesteps[len(scheduler.timesteps) - num_sampled :]
    if not num_sampled:
        return latents
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


def noise_level(subject: Subject, num_sampled: int) -> tuple[int, float]:
    """The timestep of the first of the last `num_sampled` steps, and the standard deviation of the noise in x_t."""
    if not num_sampled:
        return 0, 0.0
    scheduler = subject.sampler.scheduler
    scheduler.set_timesteps(subject.sampler.num_inference_steps)
    timestep = int(scheduler.timesteps[-num_sampled])
    return timestep, float((1 - scheduler.alphas_cumprod[timestep]).sqrt())


if __name__ == "__main__":
    main()
