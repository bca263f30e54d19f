"""A checkpoint restores exactly what was saved; a damaged one is refused before any state is changed."""

from pathlib import Path
from typing import Any

import pytest
import torch

from naruto_add.runtime.errors import StageError
from naruto_add.training.checkpoint import Checkpoint


class _State:
    def __init__(self, value: float) -> None:
        self.values: dict[str, Any] = {"weight": torch.full((3, 5), value), "steps": 7, "names": ["a", None], "at": 0.5}

    def state_dict(self) -> dict[str, Any]:
        return self.values

    def load_state_dict(self, state_dict: dict[str, Any], /) -> None:
        self.values = state_dict


def _saved(folder: Path) -> Path:
    path = folder / "teacher.pt"
    Checkpoint(path, {"lora": _State(1.0)}).save(12)
    return path


def test_the_saved_state_is_restored(tmp_path: Path) -> None:
    state = _State(0.0)
    assert Checkpoint(_saved(tmp_path), {"lora": state}).load() == 12
    assert torch.equal(state.values["weight"], torch.ones(3, 5))
    assert (state.values["steps"], state.values["names"], state.values["at"]) == (7, ["a", None], 0.5)


def test_every_flipped_byte_is_refused_or_changes_nothing(tmp_path: Path) -> None:
    path = _saved(tmp_path)
    content = path.read_bytes()
    num_refused = 0
    for position in range(0, len(content), 7):
        path.write_bytes(content[:position] + bytes([content[position] ^ 0x10]) + content[position + 1 :])
        state = _State(0.0)
        try:
            Checkpoint(path, {"lora": state}).load()
        except StageError:
            num_refused += 1
        is_refused = torch.equal(state.values["weight"], torch.zeros(3, 5))
        assert is_refused or torch.equal(state.values["weight"], torch.ones(3, 5))
    assert num_refused > 10


@pytest.mark.parametrize("content", [b"", b"PK", b"\x80\x02}q\x00."])
def test_an_empty_truncated_or_foreign_checkpoint_is_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "teacher.pt"
    path.write_bytes(content)
    message = (
        r"teacher\.pt: this checkpoint is damaged .*; delete it and run again, which trains this stage from its first"
    )
    with pytest.raises(StageError, match=message):
        Checkpoint(path, {"lora": _State(0.0)}).load()
