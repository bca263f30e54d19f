"""Conversion of pixels to uint8 images."""

import subprocess
import sys

import numpy as np
import torch

from naruto_add.imaging.pixels import as_tensor, to_pixels, to_uint8


def test_values_are_rounded_and_clipped() -> None:
    pixels = torch.tensor([-1.2, -1.0, 0.0, 1.0, 1.2]).view(1, 1, 1, 5).expand(1, 3, 1, 5)

    images = to_uint8(pixels)

    assert images.dtype == np.uint8
    assert images.shape == (1, 1, 5, 3)
    assert images[0, 0, :, 0].tolist() == [0, 0, 128, 255, 255]


def test_every_uint8_value_survives_the_conversion_to_pixels_and_back() -> None:
    images = np.arange(256, dtype=np.uint8).repeat(3).reshape(1, 16, 16, 3)

    assert (to_uint8(to_pixels(as_tensor(images))) == images).all()


def test_grids_are_imported_without_torch() -> None:
    code = "import sys, naruto_add.imaging.grid; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0
