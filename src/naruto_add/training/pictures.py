"""A grid of what the model draws at every validation."""

from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from torchvision.transforms.functional import resize

from naruto_add.grid import GridColumn, GridRow, make_grid, to_images

CELL_PX = 128


class ValidationPictures:
    """A grid that grows by one row at every validation: a column per prompt, the same noise in every row."""

    def __init__(self, prompts: list[str]) -> None:
        self._prompts = prompts
        self._rows: list[Tensor] = []
        self._steps: list[int] = []

    def add(self, step: int, pixels: Float[Tensor, "pictures 3 height width"]) -> None:
        """Add what the model draws after `step` steps."""
        small = resize(pixels, [CELL_PX, CELL_PX], antialias=True).clamp(-1, 1)
        self._rows.append(((small + 1) * 127.5).round().to(torch.uint8))
        self._steps.append(step)

    def write(self, path: Path) -> None:
        """Write the grid as a PNG."""
        columns = [GridColumn(prompt, "") for prompt in self._prompts]
        rows = [
            GridRow(f"step {step}" if step else "base", to_images(pictures / 127.5 - 1))
            for step, pictures in zip(self._steps, self._rows, strict=True)
        ]
        make_grid(rows, columns=columns, cell_px=CELL_PX, path=path, metadata={})

    def state_dict(self) -> dict[str, Any]:
        """The rows so far."""
        return {"rows": self._rows, "steps": self._steps}

    def load_state_dict(self, state_dict: dict[str, Any], /) -> None:
        """Restore them."""
        self._rows, self._steps = state_dict["rows"], state_dict["steps"]
