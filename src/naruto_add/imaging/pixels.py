"""Conversions between uint8 images and float pixels. Importing this module does not import torch."""

from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Float
from numpy.typing import NDArray

if TYPE_CHECKING:
    from torch import Tensor

Images = NDArray[np.uint8]
"""RGB images in one array, (number, height, width, 3)."""


def to_uint8(pixels: "Float[Tensor, 'batch 3 height width']") -> Images:
    """Pixels in [-1, 1] as uint8 images: rounded to the nearest integer, values outside the range clipped."""
    rounded = ((pixels + 1) * 127.5).round().clamp(0, 255).byte()
    images: Images = rounded.permute(0, 2, 3, 1).contiguous().cpu().numpy()
    return images


def as_tensor(images: Images) -> "Float[Tensor, 'batch 3 height width']":
    """The same values, in [0, 255], as floats with channels first."""
    import torch

    return torch.from_numpy(np.ascontiguousarray(images)).permute(0, 3, 1, 2).float()


def to_pixels(values: "Float[Tensor, 'batch 3 height width']") -> "Float[Tensor, 'batch 3 height width']":
    """Values in [0, 255] as pixels in [-1, 1]: the inverse of `to_uint8` for `as_tensor(images)`."""
    return values / 127.5 - 1
