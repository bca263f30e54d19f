"""Loading of frozen networks from a folder, the hub's local cache or the hub, as safetensors only."""

from pathlib import Path
from typing import Any

import torch

from naruto_add.runtime.errors import StageError
from naruto_add.runtime.hub_errors import refusal


def load_frozen(cls: Any, source: str, *, key: str, instead: str) -> Any:
    """`cls.from_pretrained` of `source`, a folder or `owner/name@commit`; networks are frozen and in eval mode.

    Raises StageError if it cannot be loaded; the message names the parameter `key` and the remedy `instead`.
    """
    place, revision = _place(source, key)
    try:
        loaded = cls.from_pretrained(place, revision=revision, **_weight_options(cls))
    except (OSError, ValueError) as error:  # ValueError: the folder's configuration names no network
        refused = refusal(error, key=key, repository=place, revision=revision or "")
        raise StageError(refused or _missing(place, revision, key, instead)) from error
    return loaded.requires_grad_(False).eval() if isinstance(loaded, torch.nn.Module) else loaded


def _place(source: str, key: str) -> tuple[str, str | None]:
    if Path(source).is_dir():
        return source, None
    repository, _, commit = source.partition("@")
    if not commit:
        raise StageError(f"{key}: {source!r} is not a folder; write a hub repository as owner/name@commit")
    return repository, commit


def _weight_options(cls: Any) -> dict[str, bool]:
    return {"use_safetensors": True} if issubclass(cls, torch.nn.Module) else {}


def _missing(place: str, revision: str | None, key: str, instead: str) -> str:
    if revision is None:
        return f"{key}: {place} does not contain such a network as safetensors; add it, or {instead}"
    from huggingface_hub.constants import HF_HUB_CACHE

    return (
        f"{key}: {place} is not in the hub's cache ({HF_HUB_CACHE}) and cannot be downloaded; run "
        f"`hf download {place} --revision {revision}` on a machine with network access, or {instead}"
    )
