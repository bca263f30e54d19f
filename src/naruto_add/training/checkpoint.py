"""What a killed run resumes from: the state of everything that training changes, in one file."""

import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import torch

from naruto_add.files import new_file

CHECKPOINT_SECONDS = 60.0
SAVES_APART = 20.0
"""Checkpoints of large models are rarer: this many times the seconds that saving takes lie between two."""


@runtime_checkable
class Stateful(Protocol):
    """What a checkpoint can hold: state dicts of tensors, numbers, strings, lists and dicts."""

    def state_dict(self) -> dict[str, Any]: ...

    def load_state_dict(self, state_dict: dict[str, Any], /) -> Any: ...


class Checkpoint:
    """The states of these objects by name, in the file at `path`."""

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
