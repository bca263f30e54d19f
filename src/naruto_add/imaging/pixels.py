"""Conversion of float pixels to uint8 images. This module does not import torch."""

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
