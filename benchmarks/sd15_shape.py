"""The cost of drawing at Stable Diffusion 1.5's shape, as ratios of one run: `python -m benchmarks.sd15_shape`.

Times one call of the full and of the pruned U-Nets, and of the full and a tiny decoder, with random weights on whatever
device there is, and prints them beside the ratios of their computed operations. The last lines compose them into
pictures: the teacher's 100 guided steps against four steps of each student.
"""

import argparse
from collections.abc import Callable, Sequence
from functools import partial

import torch
from diffusers import AutoencoderKL
from torch import nn

from benchmarks.timing import Round, device_name, median, median_seconds, time_rounds
from naruto_add.diffusion.half_decoder import decoder_dtype, halve_decoder
from naruto_add.estimate.fake import materialized, measuring, on_meta
from naruto_add.estimate.networks import SD15_UNET, SD15_VAE, Shapes, new_unet
from naruto_add.models.student import Architecture
from naruto_add.models.tiny_decoder import new_tiny_decoder
from naruto_add.runtime.compute import default_device, gpu_layout

TEACHER_CALLS, STUDENT_CALLS = 200, 4
STUDENTS: tuple[Architecture, ...] = ("bk_base", "bk_small", "bk_tiny", "shallow")


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=int, default=5, help="rounds; every call is timed once in each")
    parser.add_argument("--side", type=int, default=64, help="side of the latents; 64 for 512 px")
    options = parser.parse_args()
    device = default_device()
    dtype = torch.float16 if device.type == "cuda" else torch.float32
    calls = make_calls(options.side, device, dtype)
    with torch.no_grad():
        rounds = time_rounds(calls, options.repeats)
    flops = {name: count(name, options.side) for name in calls}
    print(f"{device_name()}, {dtype}, {8 * options.side} px, one picture, medians of {options.repeats} rounds")
    for name, value in median_seconds(rounds).items():
        by_time, by_flops = in_both(rounds, flops, partial(ratio, name=name))
        print(f"{name:<16}{1000 * value:10.1f} ms {flops[name] / 1e12:8.3f} TFLOP  {by_time:7.2f} x {by_flops:7.2f} x")
    for decoder in ("decoder full", "decoder tiny"):
        for student in STUDENTS:
            by_time, by_flops = in_both(rounds, flops, partial(speedup, student=student, decoder=decoder))
            print(f"{student}, {decoder}: {by_time:.1f} times the teacher's speed; {by_flops:.1f} by operations")


def in_both(rounds: Sequence[Round], flops: Round, figure: Callable[[Round], float]) -> tuple[float, float]:
    """The figure by time and by operations."""
    return median(rounds, figure), figure(flops)


def ratio(costs: Round, name: str) -> float:
    """The cost of the teacher's U-Net, divided by that of the call of this name."""
    return costs["unet none"] / costs[name]


def speedup(costs: Round, student: str, decoder: str) -> float:
    """How many pictures of this student cost as much as one of the teacher, which always has the full decoder."""
    teacher = TEACHER_CALLS * costs["unet none"] + costs["decoder full"]
    return teacher / (STUDENT_CALLS * costs[f"unet {student}"] + costs[decoder])


def make_calls(side: int, device: torch.device, dtype: torch.dtype) -> dict[str, Callable[[], object]]:
    """The timed calls by name, on random weights."""
    shapes = Shapes(SD15_UNET, SD15_VAE, side, is_assumed=True)
    latents, embeds = shapes.latents(1).to(device, dtype), shapes.prompt_embeds(1).to(device, dtype)
    latents.normal_(), embeds.normal_()
    timestep = torch.tensor([999], device=device)
    unets = {f"unet {name}": random_weights(new_unet(shapes, dtype, name), device) for name in ("none", *STUDENTS)}
    vae = AutoencoderKL.from_config(dict(SD15_VAE)).to(device).eval()
    tiny = gpu_layout(new_tiny_decoder(vae, seed=0).to(dtype).eval())
    if dtype == torch.float16:
        halve_decoder(vae)
    gpu_layout(vae)

    def predict(unet: nn.Module) -> Callable[[], object]:
        return lambda: unet(latents, timestep, embeds, return_dict=False)[0]

    return {
        **{name: predict(unet) for name, unet in unets.items()},
        "decoder full": lambda: vae.decode(latents.to(decoder_dtype(vae))).sample,
        "decoder tiny": lambda: tiny.decode(latents).sample,
    }


def random_weights(unet: nn.Module, device: torch.device) -> nn.Module:
    """The network with small random weights on the device."""
    unet = unet.to_empty(device=device).eval()
    with torch.no_grad():
        for weight in unet.parameters():
            weight.normal_(std=0.02)
    return gpu_layout(unet)


def count(name: str, side: int) -> float:
    """The operations of the call of this name."""
    shapes = Shapes(SD15_UNET, SD15_VAE, side, is_assumed=True)
    kind, _, which = name.partition(" ")
    with measuring() as meter, torch.no_grad():
        if kind == "unet":
            unet = materialized(new_unet(shapes, torch.float32, which))
            unet(shapes.latents(1), torch.zeros(1, dtype=torch.long), shapes.prompt_embeds(1))
        else:
            with on_meta():
                vae = AutoencoderKL.from_config(dict(SD15_VAE))
                decoder = vae if which == "full" else new_tiny_decoder(vae, seed=0)
            materialized(decoder).decode(shapes.latents(1))
    return meter.flops


if __name__ == "__main__":
    main()
