"""Frozen networks of the hub, from its cache, a folder or the hub itself, as safetensors only."""

from pathlib import Path
from typing import Any

import torch

from naruto_add.runtime import StageError


def load_frozen(cls: Any, source: str, *, key: str, instead: str) -> Any:
    """`cls.from_pretrained` of `source`, a folder or `owner/name@commit`; a network comes frozen, in eval mode.

    Raises StageError, which names the parameter `key` and what to choose `instead`, where it cannot be had.
    """
    place, revision = _place(source, key)
    try:
        loaded = cls.from_pretrained(place, revision=revision, **_weight_options(cls))
    except (OSError, ValueError) as error:  # the latter for a folder whose configuration names no network
        raise StageError(_missing(place, revision, key, instead)) from error
    return loaded.requires_grad_(False).eval() if isinstance(loaded, torch.nn.Module) else loaded


def _place(source: str, key: str) -> tuple[str, str | None]:
    if Path(source).is_dir():
        return source, None
    repository, _, commit = source.partition("@")
    if not commit:
        raise StageError(f"{key}: {source!r} is no folder; a hub repository is written owner/name@commit")
    return repository, commit


def _weight_options(cls: Any) -> dict[str, bool]:
    return {"use_safetensors": True} if issubclass(cls, torch.nn.Module) else {}


def _missing(place: str, revision: str | None, key: str, instead: str) -> str:
    if revision is None:
        return f"{key}: {place} holds no such network as safetensors; put it there, or {instead}"
    from huggingface_hub.constants import HF_HUB_CACHE

    return (
        f"{key}: {place} is not in the hub's cache ({HF_HUB_CACHE}) and cannot be fetched from here; "
        f"`hf download {place} --revision {revision}` fetches it where there is a network, or {instead}"
    )
