"""Checkpoints of the recipe's long trainings: written whole or not at all, loaded as tensors only."""

from pathlib import Path
from typing import Any

import torch


def save_checkpoint(path: Path, state: dict[str, Any], step: int) -> None:
    """Write every object's state dict and the number of steps done."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(".partial")
    torch.save({"step": step, **{name: item.state_dict() for name, item in state.items()}}, partial)
    partial.rename(path)


def load_checkpoint(path: Path, state: dict[str, Any]) -> int:
    """Restore every object and return the number of steps done; 0 where there is no checkpoint."""
    if not path.exists():
        return 0
    saved = torch.load(path, weights_only=True)
    for name, item in state.items():
        item.load_state_dict(saved[name])
    return int(saved["step"])
