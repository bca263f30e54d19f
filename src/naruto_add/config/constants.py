"""Constants that parameters and computations share. They can change results, so every stage depends on this file."""

import math
import re

NUM_TRAIN_TIMESTEPS = 1000
"""The length of Stable Diffusion 1.x's noise schedule, which all models here use."""
CAPTION_MATCH = "caption_match"
"""The value of `add.image_text_network` for a network that stage `add` trains; any other value names a CLIP model."""
CLIP_L14 = "openai/clip-vit-large-patch14@32bd64288804d66eefd0ccbe215aa642df71cc41"
"""The CLIP model of `evaluate.features: clip`."""
DINOV2_L14 = "facebook/dinov2-large@47b73eefe95e8d44ec3623f8890bd894b6ea2d6c"
"""The network of `evaluate.features: dinov2`."""
DINOV2_SMALL = "facebook/dinov2-small@ed25f3a31f01632728cabb09d1542f84ab7b0056"
"""The network of `dinov2_small` in `add.pixel_backbone` and `add.score_backbone`."""
INCEPTION_FILE = "inception-2015-12-05.pt"
"""The file of `evaluate.features: inception` in torch's cache."""
TRUNK_FILES = {
    "alex": "alexnet-owt-7be5be79.pth",
    "vgg": "vgg16-397923af.pth",
    "squeeze": "squeezenet1_1-b8a52dc0.pth",
}
"""The files of `evaluate.perceptual` in torch's cache, as torchvision names them."""
CONSISTENCY_STEPS = 40
"""DDIM steps of the teacher in `add.method: consistency`. The 50 of LCM do not include timesteps 749 and 249."""

Resolution = int | str
"""The side of a square picture, or "WIDTHxHEIGHT"."""


def sides_px(resolution: Resolution) -> tuple[int, int]:
    """Width and height of a picture. Raises ValueError for text that is neither a number nor WIDTHxHEIGHT."""
    match = re.fullmatch(r"(\d+)(?:x(\d+))?", str(resolution))
    if not match:
        raise ValueError(f"{resolution!r} is neither a side nor WIDTHxHEIGHT; write for example 96 or 128x64")
    width, height = match.groups()
    return int(width), int(height or width)


def trailing_timesteps(num_steps: int) -> list[int]:
    """The timesteps of diffusers' `timestep_spacing="trailing"`, noisiest first.

    diffusers computes `np.arange(1000, 0, -1000 / num_steps).round() - 1`. This function returns exactly the same, step
    counts included for which rounding adds a timestep, without the half second that importing numpy takes.
    """
    start, step = float(NUM_TRAIN_TIMESTEPS), -NUM_TRAIN_TIMESTEPS / num_steps
    spacing = (start + step) - start  # as np.arange does
    return [round(start + index * spacing) - 1 for index in range(math.ceil(-start / step))]
