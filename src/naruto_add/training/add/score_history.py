"""The validation scores that `add` reports."""

from collections.abc import Mapping
from typing import Any


class ScoreHistory:
    """The scores of the first validation and of the best one."""

    def __init__(self) -> None:
        self._start: dict[str, float] = {}
        self._best: dict[str, float] = {}

    def add(self, scalars: Mapping[str, float], *, is_best: bool) -> None:
        """Count a validation; `is_best` if its score is the best so far."""
        self._start = self._start or dict(scalars)
        if is_best:
            self._best = dict(scalars)

    def metrics(self) -> dict[str, float]:
        """Every score as `start_NAME` and `best_NAME`."""
        start = {f"start_{name}": value for name, value in self._start.items()}
        return start | {f"best_{name}": value for name, value in self._best.items()}

    def state_dict(self) -> dict[str, Any]:
        """All scores."""
        return {"start": self._start, "best": self._best}

    def load_state_dict(self, state_dict: dict[str, Any], /) -> None:
        """Restore all scores."""
        self._start, self._best = dict(state_dict["start"]), dict(state_dict["best"])
