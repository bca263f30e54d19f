"""Loading of frozen networks from a folder, the hub's local cache or the hub, as safetensors only."""

from pathlib import Path
from typing import Any

import torch

from naruto_add.diffusion.load_errors import require_none_missing
from naruto_add.runtime.errors import StageError
from naruto_add.runtime.hub_errors import refusal


def load_frozen(cls: Any, source: str, *, key: str, instead: str) -> Any:
    """`cls.from_pretrained` of `source`, a folder or `owner/name@commit`; networks are frozen and in eval mode.

    Raises StageError if it cannot be loaded, or if its files lack weights; the message names the parameter `key` and
    the remedy `instead`.
    """
    place, revision = _place(source, key)
    is_network = issubclass(cls, torch.nn.Module)
    options = {"use_safetensors": True, "output_loading_info": True} if is_network else {}
    try:
        loaded = cls.from_pretrained(place, revision=revision, **options)
    except (OSError, ValueError) as error:  # ValueError: the folder's configuration names no network
        refused = refusal(error, key=key, repository=place, revision=revision or "")
        raise StageError(refused or _missing(place, revision, key, instead)) from error
    if not is_network:
        return loaded
    network, found = loaded
    try:
        require_none_missing(network, found["missing_keys"])
    except ValueError as error:
        raise StageError(f"{key}: {source}: {error}; use complete files, or {instead}") from error
    return network.requires_grad_(False).eval()


def _place(source: str, key: str) -> tuple[str, str | None]:
    if Path(source).is_dir():
        return source, None
    repository, _, commit = source.partition("@")
    if not commit:
        raise StageError(f"{key}: {source!r} is not a folder; write a hub repository as owner/name@commit")
    return repository, commit


def _missing(place: str, revision: str | None, key: str, instead: str) -> str:
    if revision is None:
        return f"{key}: {place} does not contain such a network as safetensors; add it, or {instead}"
    from huggingface_hub.constants import HF_HUB_CACHE

    return (
        f"{key}: {place} is not in the hub's cache ({HF_HUB_CACHE}) and cannot be downloaded; run "
        f"`hf download {place} --revision {revision}` on a machine with network access, or {instead}"
    )
