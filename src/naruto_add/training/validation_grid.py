"""A grid of the pictures that a model draws at each validation."""

from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor
from torchvision.transforms.functional import resize

from naruto_add.imaging.grid import GridColumn, GridRow, make_grid
from naruto_add.imaging.pixels import to_uint8

CELL_PX = 128


class ValidationGrid:
    """A grid with a column per prompt and a row per validation. Pictures of all rows start from the same noise."""

    def __init__(self, prompts: list[str]) -> None:
        self._prompts = prompts
        self._rows: list[Tensor] = []
        """uint8 tensors, not arrays: a checkpoint stores tensors."""
        self._labels: list[str] = []

    def add(self, label: str, pixels: Float[Tensor, "prompts 3 height width"]) -> None:
        """Add a row of pictures, in [-1, 1]; they are clamped to it."""
        cells = resize(pixels, [CELL_PX, CELL_PX], antialias=True)
        self._rows.append(torch.from_numpy(to_uint8(cells)))
        self._labels.append(label)

    def latest(self) -> NDArray[np.uint8]:
        """The pictures (prompts, height, width, RGB) of the last validation."""
        pictures: NDArray[np.uint8] = self._rows[-1].numpy()
        return pictures

    def write(self, path: Path) -> None:
        """Write the grid as a PNG."""
        columns = [GridColumn(prompt, "") for prompt in self._prompts]
        rows = [
            GridRow(label, [Image.fromarray(cell.numpy()) for cell in cells])
            for label, cells in zip(self._labels, self._rows, strict=True)
        ]
        make_grid(rows, columns=columns, cell_px=CELL_PX, path=path, metadata={})

    def state_dict(self) -> dict[str, Any]:
        """The rows and their labels."""
        return {"rows": self._rows, "labels": self._labels}

    def load_state_dict(self, state_dict: dict[str, Any], /) -> None:
        """Restore the rows and their labels."""
        self._rows, self._labels = state_dict["rows"], state_dict["labels"]
