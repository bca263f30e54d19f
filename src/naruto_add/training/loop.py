"""The loop around a training step: checkpoints, exact resume, validation, averaged weights, curves, progress.

A step is a function of (state, step number): it draws all its randomness from `compute.step_generator`. So a run that
was killed and resumed ends with the same weights, bit for bit on one machine, as one that was not.
"""

import signal
import threading
import time
from collections.abc import Callable, Generator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor

from naruto_add.files import new_file
from naruto_add.runtime import StageError, progress

CHECKPOINT_SECONDS = 60.0
SAVES_APART = 20.0
"""Checkpoints of large models are rarer: this many times the seconds that saving takes lie between two."""
NUM_CURVE_ROWS = 300
MAX_SKIPPED_IN_A_ROW = 20

Scalars = dict[str, float]


@runtime_checkable
class Stateful(Protocol):
    """What a checkpoint can hold: state dicts of tensors, numbers, strings, lists and dicts."""

    def state_dict(self) -> dict[str, Any]: ...

    def load_state_dict(self, state_dict: dict[str, Any], /) -> Any: ...


class TrainableState:
    """The trainable parameters of a module, for a checkpoint that does not repeat what is frozen."""

    def __init__(self, module: torch.nn.Module) -> None:
        self._parameters = {name: item for name, item in module.named_parameters() if item.requires_grad}

    def state_dict(self) -> dict[str, Tensor]:
        """Copies, by parameter name, on the CPU."""
        return {name: item.detach().cpu().clone() for name, item in self._parameters.items()}

    @torch.no_grad()
    def load_state_dict(self, state_dict: dict[str, Tensor], /) -> None:
        """Overwrite every trainable parameter. Raises KeyError for one that is missing."""
        for name, item in self._parameters.items():
            item.copy_(state_dict[name])


class Ema:
    """Exponential moving average of a module's trainable parameters, with the usual warm-up of the decay.

    The decay of update k is min(decay, (1 + k) / (10 + k)), so that short runs are not averages of their start.
    """

    def __init__(self, module: torch.nn.Module, decay: float) -> None:
        self._live = {name: item for name, item in module.named_parameters() if item.requires_grad}
        self._average = {name: item.detach().clone() for name, item in self._live.items()}
        self._decay = decay
        self._num_updates = 0

    @torch.no_grad()
    def update(self) -> None:
        """Move the average towards the present parameters."""
        self._num_updates += 1
        decay = min(self._decay, (1 + self._num_updates) / (10 + self._num_updates))
        torch._foreach_lerp_(list(self._average.values()), list(self._live.values()), 1 - decay)

    @contextmanager
    def applied(self) -> Generator[None]:
        """Put the average into the module for the duration, then the live parameters back."""
        live = {name: item.detach().clone() for name, item in self._live.items()}
        self._write(self._average)
        try:
            yield
        finally:
            self._write(live)

    def average(self) -> dict[str, Tensor]:
        """Copies of the averaged parameters, by name, on the CPU."""
        return {name: item.cpu().clone() for name, item in self._average.items()}

    def state_dict(self) -> dict[str, Any]:
        """The average and the number of updates."""
        return {"average": self.average(), "num_updates": self._num_updates}

    def load_state_dict(self, state_dict: dict[str, Any], /) -> None:
        """Restore both."""
        self._num_updates = state_dict["num_updates"]
        for name, item in self._average.items():
            item.copy_(state_dict["average"][name])

    @torch.no_grad()
    def _write(self, values: Mapping[str, Tensor]) -> None:
        for name, item in self._live.items():
            item.copy_(values[name])


@dataclass
class Best:
    """The weights with the lowest score so far."""

    score: float = float("inf")
    step: int = -1
    weights: dict[str, Tensor] = field(default_factory=dict)

    def offer(self, score: float, step: int, weights: dict[str, Tensor]) -> bool:
        """Keep these weights if their score is lower; say whether they were kept."""
        if not score < self.score:
            return False
        self.score, self.step, self.weights = score, step, weights
        return True

    @torch.no_grad()
    def copy_to(self, module: torch.nn.Module) -> None:
        """Overwrite the module's parameters of the same names. Raises StageError if nothing was ever kept."""
        if not self.weights:
            raise StageError("no validation gave a finite score, so there is no best model; lower the learning rate")
        parameters = dict(module.named_parameters())
        for name, item in self.weights.items():
            parameters[name].copy_(item)

    def state_dict(self) -> dict[str, Any]:
        """Everything."""
        return {"score": self.score, "step": self.step, "weights": self.weights}

    def load_state_dict(self, state_dict: dict[str, Any], /) -> None:
        """Restore everything."""
        self.score, self.step, self.weights = state_dict["score"], state_dict["step"], state_dict["weights"]


class FiniteGuard:
    """Counts the optimizer steps skipped for a gradient that is not finite. Raises StageError for too many in a row."""

    def __init__(self, advice: str) -> None:
        self._advice = advice
        self._in_a_row = 0
        self.num_skipped = 0

    def allows(self, grad_norm: Tensor | float) -> bool:
        """Whether the optimizer may step with gradients of this total norm."""
        if torch.isfinite(torch.as_tensor(grad_norm)):
            self._in_a_row = 0
            return True
        self.num_skipped += 1
        self._in_a_row += 1
        if self._in_a_row >= MAX_SKIPPED_IN_A_ROW:
            raise StageError(f"{self._in_a_row} gradients in a row were not finite; {self._advice}")
        return False

    def state_dict(self) -> dict[str, int]:
        """The counts."""
        return {"in_a_row": self._in_a_row, "num_skipped": self.num_skipped}

    def load_state_dict(self, state_dict: dict[str, int], /) -> None:
        """Restore the counts."""
        self._in_a_row, self.num_skipped = state_dict["in_a_row"], state_dict["num_skipped"]


class Curves:
    """Rows of scalars by step: means over windows for training, single values for validation."""

    def __init__(self, num_steps: int) -> None:
        self._num_steps = num_steps
        self._window = max(1, num_steps // NUM_CURVE_ROWS)
        self._pending: list[Scalars] = []
        self._training: list[Scalars] = []
        self._validation: list[Scalars] = []

    def add_training(self, step: int, scalars: Scalars) -> None:
        """Count one step's scalars; `step` is the number of steps done."""
        self._pending.append(scalars)
        if step % self._window == 0 or step == self._num_steps:
            names = self._pending[0]
            means = {name: sum(row[name] for row in self._pending) / len(self._pending) for name in names}
            self._training.append({"step": step, **means})
            self._pending = []

    def add_validation(self, step: int, scalars: Scalars) -> None:
        """Add one validation's scalars."""
        self._validation.append({"step": step, **scalars})

    def write(self, path: Path) -> None:
        """Write `path` and, beside it, NAME_validation.tsv."""
        _write_tsv(path, self._training)
        _write_tsv(path.with_name(f"{path.stem}_validation.tsv"), self._validation)

    def state_dict(self) -> dict[str, Any]:
        """All rows."""
        return {"pending": self._pending, "training": self._training, "validation": self._validation}

    def load_state_dict(self, state_dict: dict[str, Any], /) -> None:
        """Restore all rows."""
        self._pending = state_dict["pending"]
        self._training = state_dict["training"]
        self._validation = state_dict["validation"]


def _write_tsv(path: Path, rows: list[Scalars]) -> None:
    names = list(rows[0]) if rows else ["step"]
    lines = ["\t".join(names)]
    lines += ["\t".join(f"{row[name]:.6g}" for name in names) for row in rows]
    with new_file(path) as partial:
        partial.write_text("\n".join(lines) + "\n")


def warmup_schedule(optimizer: torch.optim.Optimizer, warmup_steps: int) -> torch.optim.lr_scheduler.LambdaLR:
    """Linear increase over `warmup_steps`, then constant."""
    return torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: min(1.0, (step + 1) / (warmup_steps + 1)))


def run_steps(
    train_step: Callable[[int], Scalars],
    *,
    name: str,
    num_steps: int,
    state: Mapping[str, Stateful],
    validate: Callable[[int], Scalars],
    validation_every_steps: int,
    checkpoint_dir: Path,
    curves_path: Path,
    is_finished: Callable[[], bool] = lambda: False,
) -> None:
    """Do steps 0 to `num_steps` - 1, or those that a checkpoint in `checkpoint_dir` has not done yet.

    `train_step(step)` does one; `validate(num_done)` is called before the first, after every
    `validation_every_steps` and after the last. Both return the scalars of their row in the curves.
    Training ends before a step at which `is_finished()`. Ctrl-C and SIGTERM
    finish the step, save and raise KeyboardInterrupt.
    """
    curves = Curves(num_steps)
    checkpoint = _Checkpoint(checkpoint_dir / f"{name}.pt", {**state, "curves": curves})
    first = checkpoint.load()
    if first is None:
        first = 0
        curves.add_validation(0, validate(0))
    with _interruptible() as interrupted:
        bar = progress(range(first, num_steps), desc=name, total=num_steps, initial=first)
        for step in bar:
            if is_finished():
                break
            scalars = train_step(step)
            num_done = step + 1
            curves.add_training(num_done, scalars)
            is_validation = num_done % validation_every_steps == 0 or num_done == num_steps
            if is_validation:
                curves.add_validation(num_done, validate(num_done))
                curves.write(curves_path)
            if is_validation or interrupted.is_set() or checkpoint.is_due():
                checkpoint.save(num_done)
            if interrupted.is_set():
                raise KeyboardInterrupt
            bar.set_postfix({key: f"{value:.3g}" for key, value in list(scalars.items())[:3]}, refresh=False)
    curves.write(curves_path)


class _Checkpoint:
    def __init__(self, path: Path, state: Mapping[str, Stateful]) -> None:
        self._path = path
        self._state = state
        self._saved_at = time.monotonic()
        self._interval = CHECKPOINT_SECONDS

    def is_due(self) -> bool:
        return time.monotonic() - self._saved_at > self._interval

    def save(self, num_done: int) -> None:
        started = time.monotonic()
        states = {name: item.state_dict() for name, item in self._state.items()}
        with new_file(self._path) as partial:
            torch.save({"num_done": num_done, "states": states}, partial)
        self._saved_at = time.monotonic()
        self._interval = max(CHECKPOINT_SECONDS, SAVES_APART * (self._saved_at - started))

    def load(self) -> int | None:
        """Restore the state and return the number of steps done; None without a checkpoint."""
        if not self._path.exists():
            return None
        saved = torch.load(self._path, map_location="cpu", weights_only=True)
        for name, item in self._state.items():
            item.load_state_dict(saved["states"][name])
        return int(saved["num_done"])


@contextmanager
def _interruptible() -> Generator[threading.Event]:
    """An event that SIGINT and SIGTERM set instead of breaking into a step; a second signal does break."""
    event = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield event
        return

    def interrupt(*_: object) -> None:
        if event.is_set():
            raise KeyboardInterrupt
        event.set()

    handlers = {number: signal.signal(number, interrupt) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield event
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)
