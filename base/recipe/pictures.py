"""The pictures that the base model is trained on. They are drawn when they are needed, and none is of a shinobi."""

import os
from collections.abc import Callable, Iterator, Sequence

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset
from tqdm import tqdm

from recipe.avatars import draw_avatar
from recipe.comics import draw_comic
from recipe.doodles import draw_doodle
from recipe.drawing import Drawing
from recipe.villagers import draw_villager

FAMILIES: dict[str, Callable[..., Drawing]] = {
    "avatar": draw_avatar,
    "comic": draw_comic,
    "doodle": draw_doodle,
    "villager": draw_villager,
}

VALIDATION_SEED = 1
"""Added to the seed of the training pictures, it gives the seed of pictures that are not trained on."""

Batch = tuple[Tensor, list[str]]
"""Pixels (N, 3, height, width), fp32 in [-1, 1], and N captions."""


class Pictures(Dataset[tuple[Tensor, str]]):
    """An endless series: picture n is of family n modulo the number of families, and depends on seed and n only."""

    def __init__(self, families: Sequence[str], *, seed: int, size_px: int) -> None:
        self.families, self.seed, self.size_px = list(families), seed, size_px

    def __getitem__(self, number: int) -> tuple[Tensor, str]:
        """The picture (3, size_px, size_px), fp32 in [-1, 1], and its caption."""
        draw = FAMILIES[self.families[number % len(self.families)]]
        drawing = draw(number, seed=self.seed, size_px=self.size_px)
        return as_pixels(np.asarray(drawing.image)[None])[0], drawing.caption


def training_batches(
    pictures: Pictures, steps: range, *, first_step: int, batch_size: int, device: torch.device, name: str
) -> Iterator[tuple[int, Batch]]:
    """The steps from `first_step` on, each with its batch, under a progress bar of this name."""
    remaining = steps[first_step:]
    drawn = batches(pictures, remaining, batch_size=batch_size, device=device)
    shown = tqdm(remaining, initial=first_step, total=len(steps), desc=name, mininterval=30)
    yield from zip(shown, drawn, strict=True)


def batches(pictures: Pictures, steps: range, *, batch_size: int, device: torch.device) -> Iterator[Batch]:
    """The batch of each step. It depends on the step's number only, so a resumed training has the same batches.

    One other process draws, at 3 to 12 ms a picture, and on a machine with a GPU one process for each core.
    """
    num_workers = 1 if device.type == "cpu" else os.cpu_count() or 1
    numbers = range(steps.start * batch_size, steps.stop * batch_size)
    loader = DataLoader(pictures, batch_size=batch_size, sampler=numbers, num_workers=num_workers)
    for pixels, captions in loader:
        yield pixels.to(device, memory_format=torch.channels_last), list(captions)


def first_pictures(families: Sequence[str], count: int, *, seed: int, size_px: int) -> Batch:
    """The first `count` pictures of a series."""
    pictures = Pictures(families, seed=seed, size_px=size_px)
    pixels, captions = zip(*(pictures[number] for number in range(count)), strict=True)
    return torch.stack(pixels), list(captions)


def as_pixels(images: np.ndarray) -> Tensor:
    """Pixels (N, 3, height, width), fp32 in [-1, 1], of images (N, height, width, 3), uint8."""
    return torch.from_numpy(np.array(images)).permute(0, 3, 1, 2).float() / 127.5 - 1
