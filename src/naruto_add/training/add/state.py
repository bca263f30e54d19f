"""What `add` keeps of its validations: the scores, and how long they have not been the best."""

from collections.abc import Mapping
from typing import Any


class Scores:
    """Validation scores at the start and at the best step."""

    def __init__(self) -> None:
        self.values: dict[str, float] = {}

    def note(self, scalars: Mapping[str, float], *, is_best: bool) -> None:
        if not self.values:
            self.values.update({f"start_{name}": value for name, value in scalars.items()})
        if is_best:
            self.values.update({f"best_{name}": value for name, value in scalars.items()})

    def state_dict(self) -> dict[str, Any]:
        return dict(self.values)

    def load_state_dict(self, state_dict: dict[str, Any], /) -> None:
        self.values = dict(state_dict)


class Patience:
    """Counts the validations in a row that were not the best."""

    def __init__(self, patience: int) -> None:
        self._patience = patience
        self._num_waited = 0

    def note(self, *, is_best: bool, counts: bool) -> None:
        """One more validation, unless it is too early to expect better ones."""
        self._num_waited = 0 if is_best or not counts else self._num_waited + 1

    def is_over(self) -> bool:
        """Whether training should end; never with a patience of 0."""
        return 0 < self._patience <= self._num_waited

    def state_dict(self) -> dict[str, Any]:
        """The count."""
        return {"num_waited": self._num_waited}

    def load_state_dict(self, state_dict: dict[str, Any], /) -> None:
        """Restore the count."""
        self._num_waited = state_dict["num_waited"]
