"""Watching the calls of a network with its own hooks."""

from collections.abc import Generator
from contextlib import contextmanager

import torch
from torch.nn.modules.module import register_module_forward_pre_hook


@contextmanager
def counted(module: torch.nn.Module, *, die_at: int | None = None) -> Generator[list[int]]:
    """Within the block, the list grows by the batch size of each call; call number `die_at` raises KilledError."""
    sizes: list[int] = []

    def note(_: torch.nn.Module, inputs: tuple[torch.Tensor, ...]) -> None:
        sizes.append(len(inputs[0]))
        if len(sizes) == die_at:
            raise KilledError

    hook = module.register_forward_pre_hook(note)
    try:
        yield sizes
    finally:
        hook.remove()


@contextmanager
def killed_in_training(kind: type[torch.nn.Module], *, call: int) -> Generator[None]:
    """Within the block, the call with this number, from 1, of a network of this kind for a gradient raises KilledError.

    It is for networks that the code under test loads itself.
    """
    num_calls = 0

    def note(module: torch.nn.Module, _: object) -> None:
        nonlocal num_calls
        num_calls += isinstance(module, kind) and torch.is_grad_enabled()
        if num_calls == call:
            raise KilledError

    hook = register_module_forward_pre_hook(note)
    try:
        yield
    finally:
        hook.remove()


class KilledError(Exception):
    """The process was killed during this call."""
