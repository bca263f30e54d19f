"""Curves of a training run: the scalars of steps and validations, as tables that DVC plots."""

import math
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from naruto_add.runtime.files import new_file

NUM_CURVE_ROWS = 300
"""Longer trainings are averaged over windows, so that a curve has at most about twice as many rows."""

LIVE_SECONDS = 10.0
"""Minimum time between two writings that no validation requires: people watch the files while a training runs."""

Scalars = Mapping[str, float | None]
"""The values of a row by name; None for a value that a skipped step does not have."""


class Curves:
    """Rows of scalars by step: means over windows of steps for training, single values for validations."""

    def __init__(self, num_steps: int) -> None:
        self._num_steps = num_steps
        self._window = max(1, num_steps // NUM_CURVE_ROWS)
        self._pending: list[Scalars] = []
        self._training: list[Scalars] = []
        self._validation: list[Scalars] = []
        self._written_at = -math.inf

    def is_due(self) -> bool:
        """Whether there are rows to write, and enough time has passed since the last writing."""
        return bool(self._training or self._validation) and time.monotonic() - self._written_at > LIVE_SECONDS

    def add_training(self, step: int, scalars: Scalars) -> None:
        """Add the scalars of one step; `step` is the number of steps done."""
        self._pending.append(scalars)
        if step % self._window == 0 or step == self._num_steps:
            names = self._pending[0]
            means = {name: _mean([row[name] for row in self._pending]) for name in names}
            self._training.append({"step": step, **means})
            self._pending = []

    def add_validation(self, step: int, scalars: Scalars) -> None:
        """Add the scalars of one validation; `step` is the number of steps done."""
        self._validation.append({"step": step, **scalars})

    def write(self, path: Path) -> None:
        """Write the training curves to `path` (NAME.tsv) and those of validations to NAME_validation.tsv next to it."""
        _write_tsv(path, self._training)
        _write_tsv(path.with_name(f"{path.stem}_validation.tsv"), self._validation)
        self._written_at = time.monotonic()

    def state_dict(self) -> dict[str, Any]:
        """All rows."""
        return {"pending": self._pending, "training": self._training, "validation": self._validation}

    def load_state_dict(self, state_dict: dict[str, Any], /) -> None:
        """Restore all rows."""
        self._pending = state_dict["pending"]
        self._training = state_dict["training"]
        self._validation = state_dict["validation"]


def _mean(values: list[float | None]) -> float | None:
    """The mean of the finite values, or None: skipped steps have no gradient norm and may have no finite loss."""
    known = [value for value in values if value is not None and math.isfinite(value)]
    return sum(known) / len(known) if known else None


def _write_tsv(path: Path, rows: list[Scalars]) -> None:
    names = list(rows[0]) if rows else ["step"]
    lines = ["\t".join(names), *("\t".join(_text(row[name]) for name in names) for row in rows)]
    with new_file(path) as partial:
        partial.write_text("\n".join(lines) + "\n")


def _text(value: float | None) -> str:
    return "" if value is None else f"{value:.6g}"
