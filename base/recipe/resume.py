"""What the recipe's two trainings share: checkpoints and curves, written whole or not at all; precision; rates."""

from bisect import bisect_right
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from itertools import accumulate
from pathlib import Path
from typing import Any

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel


class Curve:
    """A training's figures by step, in a table beside its checkpoint and, since what follows may rerun, within it."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.rows: list[dict[str, float]] = []

    def append(self, row: dict[str, float]) -> None:
        """Add a row and write the table: tab-separated, one column a key, at most six digits."""
        self.rows.append(row)
        self.save(self.path)

    def save(self, path: Path) -> None:
        """Write the table of the rows so far."""
        lines = ["\t".join(self.rows[0]), *("\t".join(f"{each:.6g}" for each in row.values()) for row in self.rows)]
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("\n".join(lines) + "\n", encoding="utf-8")

    def state_dict(self) -> dict[str, Any]:
        """The rows so far."""
        return {"rows": self.rows}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from these rows; later ones that the file may hold are written again."""
        self.rows = state["rows"]


def save_checkpoint(path: Path, state: dict[str, Any], step: int) -> None:
    """Write every object's state dict and the number of steps done."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(".partial")
    torch.save({"step": step, **{name: item.state_dict() for name, item in state.items()}}, partial)
    partial.replace(path)


def load_checkpoint(path: Path, state: dict[str, Any]) -> int:
    """Restore every object and return the number of steps done; 0 where there is no checkpoint."""
    if not path.exists():
        return 0
    saved = torch.load(path, weights_only=True, map_location="cpu")
    for name, item in state.items():
        item.load_state_dict(saved[name])
    return int(saved["step"])


@contextmanager
def fast_passes(device: torch.device) -> Iterator[None]:
    """Convolutions and matrix products in bf16; weights and optimizers stay fp32.

    On a CPU attention is computed by plain matrix products: the backward pass of the fused kernel takes half of a step
    where there are no more than 64 tokens.
    """
    attention = nullcontext() if device.type == "cuda" else sdpa_kernel(SDPBackend.MATH)
    with torch.autocast(device.type, torch.bfloat16), attention:
        yield


def trapezoid(num_steps: int, *, warmup_steps: int, decay_steps: int) -> Callable[[int], float]:
    """The learning rate's factor by step: up in a straight line, level, and down to nothing in the last `decay_steps`.

    The level part does not depend on the length, so a training that shall be longer can go on from its checkpoint.
    """
    return lambda step: max(0.0, min(1.0, (step + 1) / (warmup_steps + 1), (num_steps - step) / decay_steps))


def cyclic(cycles: Sequence[int], *, warmup_steps: int, decay_steps: int) -> Callable[[int], float]:
    """The learning rate's factor by step over one trapezoid after another, each of so many steps.

    Warm restarts (Loshchilov and Hutter 2017): a training that has ended goes on in another cycle.
    """
    starts = [0, *accumulate(cycles)]

    def factor(step: int) -> float:
        cycle = bisect_right(starts, step) - 1
        shape = trapezoid(cycles[cycle], warmup_steps=warmup_steps, decay_steps=decay_steps)
        return shape(step - starts[cycle])

    return factor
