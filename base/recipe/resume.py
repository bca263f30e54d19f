"""What the recipe's trainings share: checkpoints, learning curves, precision and learning rates."""

from bisect import bisect_right
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from itertools import accumulate
from pathlib import Path
from typing import Any, Protocol

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel

from naruto_add.runtime.files import content_hash

LENGTHS = ("num_steps", "cycles", "decay_steps")
"""Values of a recipe that may change in the middle of a training, as long as no step already done depends on them."""


class Training(Protocol):
    """A training as its checkpoint sees it."""

    device: torch.device
    factor: Callable[[int], float]

    def state(self) -> dict[str, Any]:
        """Everything that a step changes, by name: objects with `state_dict` and `load_state_dict`."""

    def inputs(self) -> dict[str, Any]:
        """Everything that the result depends on: values of the recipe, and hashes of what earlier stages made."""


class Curve:
    """The learning curve: figures of some steps, one row a step.

    It is a table beside the checkpoint and also part of it: a resumed training may measure the last rows again.
    """

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
        """Replace the rows; later rows in the file are overwritten at the next `append`."""
        self.rows = state["rows"]


def save_checkpoint(path: Path, training: Training, step: int) -> None:
    """Write the training's state, the number of steps done and what they depended on, whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(".partial")
    state = {name: item.state_dict() for name, item in training.state().items()}
    torch.save({"step": step, "inputs": _inputs(training, step), "state": state}, partial)
    partial.replace(path)


def load_checkpoint(path: Path, training: Training) -> int:
    """Restore the training's state, on its device, and return the number of steps done; 0 without a checkpoint.

    The program ends if the checkpoint belongs to other inputs.
    """
    if not path.exists():
        return 0
    saved = torch.load(path, weights_only=True, map_location=training.device)
    step = saved["step"]
    inputs, saved_inputs = _inputs(training, step), saved.get("inputs", {})
    if changed := sorted(name for name in inputs.keys() | saved_inputs if inputs.get(name) != saved_inputs.get(name)):
        raise SystemExit(
            f"error: {path} was written after {step} steps of another recipe, which differs in {', '.join(changed)}; "
            "restore these values, or delete the file to train from the beginning"
        )
    for name, item in training.state().items():
        item.load_state_dict(saved["state"][name])
    return int(step)


def _inputs(training: Training, step: int) -> dict[str, Any]:
    """What the first steps depend on. Of the lengths these are only the learning rates of the steps already done."""
    rates = content_hash([training.factor(done) for done in range(step)])
    fixed = {name: value for name, value in training.inputs().items() if name not in LENGTHS}
    return {**fixed, "the learning rates of these steps": rates}


@contextmanager
def fast_passes(device: torch.device) -> Iterator[None]:
    """Compute convolutions and matrix products in bf16; weights and optimizers stay fp32.

    On a CPU, attention is computed by plain matrix products, because the backward pass of the fused kernel takes half
    of a step at 64 tokens or fewer.
    """
    attention = nullcontext() if device.type == "cuda" else sdpa_kernel(SDPBackend.MATH)
    with torch.autocast(device.type, torch.bfloat16), attention:
        yield


def trapezoid(num_steps: int, *, warmup_steps: int, decay_steps: int) -> Callable[[int], float]:
    """Factor of the learning rate by step: linear increase, constant, linear decay to 0 in the last `decay_steps`.

    Before the decay no factor depends on `num_steps`, so a training can be made longer from its checkpoint.
    """
    return lambda step: max(0.0, min(1.0, (step + 1) / (warmup_steps + 1), (num_steps - step) / decay_steps))


def cyclic(cycles: Sequence[int], *, warmup_steps: int, decay_steps: int) -> Callable[[int], float]:
    """Factor of the learning rate by step: a `trapezoid` for each cycle, one after the other.

    Warm restarts (Loshchilov and Hutter 2017): every cycle but the first begins where the one before has ended.
    """
    starts = [0, *accumulate(cycles)]

    def factor(step: int) -> float:
        cycle = bisect_right(starts, step) - 1
        shape = trapezoid(cycles[cycle], warmup_steps=warmup_steps, decay_steps=decay_steps)
        return shape(step - starts[cycle])

    return factor
