"""Checkpoints: the state of everything that training changes, in one file, from which a killed run resumes."""

import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import torch

from naruto_add.runtime.cache import hash_state
from naruto_add.runtime.errors import StageError
from naruto_add.runtime.files import new_file

CHECKPOINT_SECONDS = 60.0
"""Minimum time between two checkpoints that are not required by a validation or an interruption."""
MIN_TRAINING_PER_SAVING = 20.0
"""Minimum ratio of this time to the time that the last save took, so that large models are saved less often."""


@runtime_checkable
class Stateful(Protocol):
    """An object whose state a checkpoint can store: tensors, numbers and strings in lists and dicts."""

    def state_dict(self) -> dict[str, Any]: ...

    def load_state_dict(self, state_dict: dict[str, Any], /) -> Any: ...


class Checkpoint:
    """The file at `path` for the states of these objects, by name."""

    def __init__(self, path: Path, state: Mapping[str, Stateful]) -> None:
        self._path = path
        self._state = state
        self._saved_at = time.monotonic()
        self._interval = CHECKPOINT_SECONDS

    def is_due(self) -> bool:
        """Whether enough time has passed since the last save."""
        return time.monotonic() - self._saved_at > self._interval

    def save(self, num_done: int) -> None:
        """Write the states and the number of steps done; the old file is replaced only by a complete one."""
        started = time.monotonic()
        states = {name: item.state_dict() for name, item in self._state.items()}
        with new_file(self._path) as partial:
            torch.save({"num_done": num_done, "states": states, "hash": hash_state([num_done, states])}, partial)
        self._saved_at = time.monotonic()
        self._interval = max(CHECKPOINT_SECONDS, MIN_TRAINING_PER_SAVING * (self._saved_at - started))

    def load(self) -> int | None:
        """Restore the states and return the number of steps done, or return None if the file does not exist.

        Raises StageError, before any state is changed, if the file is damaged.
        """
        if not self._path.exists():
            return None
        saved = self._read()
        for name, item in self._state.items():
            item.load_state_dict(saved["states"][name])
        return int(saved["num_done"])

    def _read(self) -> dict[str, Any]:
        try:
            saved: dict[str, Any] = torch.load(self._path, map_location="cpu", weights_only=True)
            is_whole = saved["hash"] == hash_state([saved["num_done"], saved["states"]])
        except Exception as error:  # torch's readers raise nearly any error for damaged files
            raise self._damaged(f"{type(error).__name__}: {str(error).partition(chr(10))[0]}") from error
        if not is_whole:
            raise self._damaged("its values changed on disk")
        return saved

    def _damaged(self, problem: str) -> StageError:
        return StageError(
            f"{self._path}: this checkpoint is damaged ({problem}); delete it and run again, which trains this stage "
            "from its first step"
        )
