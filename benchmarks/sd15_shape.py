"""The cost of drawing at Stable Diffusion 1.5's shape, as ratios of one run: `python benchmarks/sd15_shape.py`.

Times one call of the full and of the pruned U-Nets, and of the full and a tiny decoder, with random weights on whatever
device there is, and prints them beside the ratios of their computed operations. The last lines compose them into
pictures: the teacher's 100 guided steps against four steps of each student.
"""

import argparse
import statistics
import time
from collections.abc import Callable, Mapping

import torch
from diffusers import AutoencoderKL
from torch import nn

from naruto_add.diffusion.half_decoder import decoder_dtype, halve_decoder
from naruto_add.estimate.fake import materialized, measuring
from naruto_add.estimate.networks import SD15_UNET, SD15_VAE, Shapes, new_unet
from naruto_add.models.student import Architecture
from naruto_add.models.tiny_decoder import new_tiny_decoder
from naruto_add.runtime.compute import default_device, gpu_layout

TEACHER_CALLS, STUDENT_CALLS = 200, 4
STUDENTS: tuple[Architecture, ...] = ("bk_base", "bk_small", "bk_tiny")


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=int, default=5, help="rounds; every call is timed once in each")
    parser.add_argument("--side", type=int, default=64, help="side of the latents; 64 for 512 px")
    options = parser.parse_args()
    device = default_device()
    dtype = torch.float16 if device.type == "cuda" else torch.float32
    calls = make_calls(options.side, device, dtype)
    seconds, flops = times(calls, options.repeats), {name: count(name, options.side) for name in calls}
    print(f"{device_name(device)}, {dtype}, {8 * options.side} px, one picture, median of {options.repeats}")
    for name, value in seconds.items():
        ratios = seconds["unet none"] / value, flops["unet none"] / flops[name]
        print(
            f"{name:<16}{1000 * value:10.1f} ms {flops[name] / 1e12:8.3f} TFLOP  {ratios[0]:7.2f} x {ratios[1]:7.2f} x"
        )
    for decoder in ("decoder full", "decoder tiny"):
        for student in STUDENTS:
            by_time, by_flops = (speedup(costs, student, decoder) for costs in (seconds, flops))
            print(f"{student}, {decoder}: {by_time:.1f} times the teacher's speed; {by_flops:.1f} by operations")


def speedup(costs: Mapping[str, float], student: str, decoder: str) -> float:
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
            vae = AutoencoderKL.from_config(dict(SD15_VAE))
            decoder = vae if which == "full" else new_tiny_decoder(vae, seed=0)
            decoder.decode(shapes.latents(1))
    return meter.flops


@torch.no_grad()
def times(calls: Mapping[str, Callable[[], object]], repeats: int) -> dict[str, float]:
    """The median seconds of each call; all are timed in every round, and the first round is not counted."""
    found: dict[str, list[float]] = {name: [] for name in calls}
    for _ in range(repeats + 1):
        for name, call in calls.items():
            started = now()
            call()
            found[name].append(now() - started)
    return {name: statistics.median(values[1:]) for name, values in found.items()}


def now() -> float:
    """Seconds, after all queued work of a GPU is done; without one, of CPU time."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()
        return time.perf_counter()
    return time.process_time()


def device_name(device: torch.device) -> str:
    """The name of the GPU, or CPU."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else "CPU (CPU time)"


if __name__ == "__main__":
    main()
