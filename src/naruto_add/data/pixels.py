"""Pictures of the data set as tensors."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float
from PIL import Image
from torch import Tensor

from naruto_add.data.dataset import Example
from naruto_add.imaging.pixels import as_tensor, to_pixels


def load_pixels(examples: Sequence[Example], /) -> Float[Tensor, "batch 3 height width"]:
    """The pictures in [-1, 1], fp32, in the given order."""
    return torch.stack([_pixels(example.image_path) for example in examples])


def _pixels(path: Path) -> Float[Tensor, "3 height width"]:
    with Image.open(path) as image:
        rgb = np.array(image.convert("RGB"))
    return to_pixels(as_tensor(rgb[None]))[0]
