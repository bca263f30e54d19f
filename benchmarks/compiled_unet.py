"""What `torch.compile` saves when the student draws: `python -m benchmarks.compiled_unet`.

Times one call of the student's U-Net with SD 1.5's structure and random weights on whatever device there is: as it is,
compiled and, on a GPU, compiled with CUDA graphs, which then finds some kernels compiled already. Prints how many times
faster the compiled calls are, the seconds that compiling takes, and after how many calls they are regained. By default
a call is for one picture; the student makes four calls for it. Without a GPU, times are CPU time, that of the compiler
included, and `--side 16 --width 64` needs a minute and a half of it.
"""

import argparse
import math
import os
import resource
import tempfile
from collections.abc import Callable, Mapping
from functools import partial
from typing import get_args

import torch
from torch import nn

from benchmarks.sd15_shape import random_weights
from benchmarks.timing import Round, device_name, median, median_seconds, seconds_of, time_rounds
from naruto_add.estimate.networks import SD15_UNET, SD15_VAE, Shapes, new_unet
from naruto_add.models.student import Architecture
from naruto_add.runtime.compute import default_device

EAGER = "eager"
COMPILED: Mapping[str, Mapping[str, bool]] = {"compiled": {}, "compiled, CUDA graphs": {"triton.cudagraphs": True}}
"""Options of `torch.compile` by the names of the rows; the second needs a GPU."""


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--student", default="bk_small", choices=get_args(Architecture), help="none is the full U-Net")
    parser.add_argument("--repeats", type=int, default=5, help="rounds; every call is timed once in each")
    parser.add_argument("--batch", type=int, default=1, help="pictures")
    parser.add_argument("--side", type=int, default=64, help="side of the latents; 64 for 512 px")
    parser.add_argument("--width", type=int, default=320, help="channels of the U-Net's first level; SD 1.5 has 320")
    options = parser.parse_args()
    device = default_device()
    dtype = torch.float16 if device.type == "cuda" else torch.float32
    unet = random_weights(new_unet(shapes_of_width(options.width, options.side), dtype, options.student), device)
    calls = make_calls(unet, batch=options.batch, side=options.side, dtype=dtype)
    with torch.no_grad(), tempfile.TemporaryDirectory() as folder:
        os.environ["TORCHINDUCTOR_CACHE_DIR"] = folder  # empty, so that the first call compiles all
        first = {name: first_seconds(call) for name, call in calls.items()}
        rounds = time_rounds(calls, options.repeats)
    print(f"{device_name()}, {dtype}, {options.student} of width {options.width}, {8 * options.side} px, ", end="")
    print(f"batch {options.batch}, medians of {options.repeats} rounds")
    print(f"{'U-Net':<24}{'ms a call':>12}{'times as fast':>16}{'compiling':>12}{'regained after':>24}")
    for name, seconds in median_seconds(rounds).items():
        row = f"{name:<24}{1000 * seconds:12.1f}{median(rounds, partial(speedup, name=name)):16.2f}"
        if name == EAGER:
            print(row)
            continue
        compiling = first[name] - seconds
        print(f"{row}{compiling:10.1f} s{break_even(compiling, median(rounds, partial(saved, name=name))):>24}")


def shapes_of_width(width: int, side: int) -> Shapes:
    """Stable Diffusion 1.5's shapes, with a U-Net that has this many channels in its first level."""
    widths = tuple(item * width // 320 for item in SD15_UNET["block_out_channels"])
    return Shapes({**SD15_UNET, "block_out_channels": widths}, SD15_VAE, side, is_assumed=True)


def make_calls(unet: nn.Module, *, batch: int, side: int, dtype: torch.dtype) -> dict[str, Callable[[], object]]:
    """Calls of the U-Net as it is and compiled; each compiles when it is first made."""
    device = default_device()
    shapes = shapes_of_width(320, side)
    latents, embeds = shapes.latents(batch).to(device, dtype), shapes.prompt_embeds(batch).to(device, dtype)
    latents.normal_(), embeds.normal_()
    timestep = torch.tensor([999], device=device)
    kinds = list(COMPILED.items()) if device.type == "cuda" else [("compiled", {"compile_threads": 1})]
    networks = {EAGER: unet, **{name: torch.compile(unet, options=dict(kind)) for name, kind in kinds}}

    def predict(network: Callable[..., tuple[torch.Tensor]]) -> Callable[[], object]:
        return lambda: network(latents, timestep, embeds, return_dict=False)[0]

    return {name: predict(network) for name, network in networks.items()}


def first_seconds(call: Callable[[], object]) -> float:
    """The seconds of a call; without a GPU, of CPU time of this process and of the compilers that it starts."""
    before = _seconds_of_compilers()
    seconds = seconds_of(call)
    return seconds if torch.cuda.is_available() else seconds + _seconds_of_compilers() - before


def _seconds_of_compilers() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def saved(costs: Round, name: str) -> float:
    """The seconds that this call takes less than the one of the U-Net as it is."""
    return costs[EAGER] - costs[name]


def speedup(costs: Round, name: str) -> float:
    """How many times faster this call is than the one of the U-Net as it is."""
    return costs[EAGER] / costs[name]


def break_even(compiling: float, seconds_saved: float) -> str:
    """After how many calls the seconds of compiling are saved again, in words."""
    if seconds_saved <= 0:
        return "never"
    return f"{math.ceil(compiling / seconds_saved)} calls"


if __name__ == "__main__":
    main()
