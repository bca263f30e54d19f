"""Weights that are not part of this project, found or downloaded by their file names alone, without loading torch."""

import json
import os
import re
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path

from safetensors import SafetensorError, safe_open

from naruto_add.config.constants import CAPTION_MATCH
from naruto_add.config.rules import is_commit
from naruto_add.runtime.errors import StageError
from naruto_add.runtime.hub_errors import refusal

_NETWORK_FILES = ("*.json", "*.txt", "*.model", "model*.safetensors", "diffusion_pytorch_model*.safetensors")
_WEIGHTS = "*model*.safetensors"
_LOADED_WEIGHTS = (
    *("model.safetensors", "model-*-of-*.safetensors"),
    *("diffusion_pytorch_model.safetensors", "diffusion_pytorch_model-*-of-*.safetensors"),
)
"""Of these, the files that `from_pretrained` reads without a variant."""
_TOKENIZERS = (("tokenizer.json",), ("vocab.json", "merges.txt"))
"""The files of CLIP's tokenizer, in either form."""
_WITH_WEIGHTS = ("text_encoder", "transformer", "unet", "vae")
_UNUSED_PARTS = ("feature_extractor", "image_encoder", "safety_checker")


def fetch_network(source: str, *, kind: str, reads_text: bool, key: str, instead: str) -> None:
    """The network in `source`, a folder or `owner/name@commit` on the hub, is on this disk and is of this kind.

    One that `reads_text` has CLIP's tokenizer beside it: without its files, transformers makes an empty one.

    Raises StageError, which names the parameter `key` and the remedy `instead`, if it cannot be.
    """
    if Path(source).is_dir():
        _check_network(Path(source), source, kind, reads_text, key, instead)
        return
    repository, _, commit = source.partition("@")
    if not commit or repository.count("/") != 1:
        choices = f" or {CAPTION_MATCH!r}" if key == "add.image_text_network" else ""
        raise StageError(
            f"{key}: {source!r} is neither a folder nor a pinned hub repository; write owner/name@commit{choices}, or "
            f"{instead}"
        )
    if not is_commit(commit):
        raise StageError(
            f"{key}: {source!r}: {commit!r} is not a commit, which has 40 hexadecimal digits; take one from the "
            f"repository's page, or {instead}"
        )
    folder = _cached(repository, commit)
    if folder is None or _missing_of_network(folder, reads_text):
        folder = _downloaded(repository, commit, _NETWORK_FILES, key, instead)
    _check_network(folder, source, kind, reads_text, key, instead)


def fetch_base(model: str, *, revision: str, variant: str) -> None:
    """The base model, a pipeline in diffusers format on the hub, is on this disk with all parts that are loaded.

    Raises StageError if it cannot be. A folder or a file is left to the checks of its configuration.
    """
    if Path(model).exists():
        return
    remedy = "name another base.model"
    folder = _cached(model, revision)
    if folder is None or _missing_of_pipeline(folder, variant):
        patterns = ("model_index.json", "*/*.json", "*/*.txt", *_weight_files(variant))
        folder = _downloaded(model, revision, patterns, "base.model", remedy, unused=_UNUSED_PARTS)
    if missing := _missing_of_pipeline(folder, variant):
        is_weight = missing.endswith(".safetensors")
        variants = _variants_on_hub(model, revision, part=missing.partition("/")[0]) if is_weight else set()
        if variants and variant not in variants:
            shown = " or ".join("base.variant: " + (name or '""') for name in sorted(variants))
            raise StageError(
                f"base.variant: {variant!r} is not a variant of the weights of {model}@{revision}; set {shown}"
            )
        wanted = f" of base.variant {variant!r}" if variant else ""
        raise StageError(
            f"base.model: {model}@{revision} has no {missing}{wanted} in the hub's cache, and the hub has none or is "
            f"out of reach; only weights in safetensors are loaded; run `hf download {model} --revision {revision}` "
            f"on a machine with network access, or {remedy}"
        )


def base_weight_bytes(model: str, revision: str) -> int:
    """The size of the base model's weights in its folder, its file or the hub's cache; 0 if they are in none."""
    path = Path(model) if Path(model).exists() else _cached(model, revision)
    if path is None:
        return 0
    files = [path] if path.is_file() else path.rglob("*.safetensors")
    return sum(file.stat().st_size for file in files)


def fetch_torch_file(name: str, *, module: str, function: str, argument: str) -> None:
    """The file is in torch's cache, downloaded if it is missing by `function` of `module`, which raises StageError.

    The module is named by text: it loads torch, which takes seconds, and runs only if the file is missing.
    """
    if not (torch_cache() / name).exists():
        getattr(import_module(module), function)(*([argument] if argument else []))


def torch_cache() -> Path:
    """The folder that `torch.hub` keeps weights in."""
    cache = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    return Path(os.environ.get("TORCH_HOME") or f"{cache}/torch").expanduser() / "hub/checkpoints"


# --- the hub ---


def _cached(repository: str, revision: str) -> Path | None:
    """The folder of the hub's cache, whose files may be incomplete; None if it has none of this revision."""
    from huggingface_hub import snapshot_download  # takes half a second; only hub models need it

    try:
        return Path(snapshot_download(repository, revision=revision, local_files_only=True))
    except Exception:  # noqa: BLE001 (hub clients raise many types; the download reports the cause)
        return None


def _downloaded(
    repository: str, revision: str, patterns: Sequence[str], key: str, instead: str, *, unused: Sequence[str] = ()
) -> Path:
    """The folder of the hub's cache with the files of these patterns, without those in the folders `unused`."""
    from huggingface_hub import snapshot_download
    from huggingface_hub.constants import HF_HUB_CACHE

    ignored = [f"{part}/*" for part in unused]
    try:
        return Path(
            snapshot_download(repository, revision=revision, allow_patterns=list(patterns), ignore_patterns=ignored)
        )
    except Exception as error:  # hub clients raise many types
        if refused := refusal(error, key=key, repository=repository, revision=revision):
            raise StageError(refused) from error
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise StageError(
            f"{key}: {repository}@{revision} is not complete in the hub's cache ({HF_HUB_CACHE}) and cannot be "
            f"downloaded ({reason}); check the name and the network, run `hf download {repository} --revision "
            f"{revision}` on a machine with network access, or {instead}"
        ) from error


def _variants_on_hub(repository: str, revision: str, *, part: str) -> set[str]:
    """The variants of this part's weights, "" for those without a name; empty if the hub cannot be asked."""
    from huggingface_hub import HfApi

    try:
        files = [Path(name) for name in HfApi().list_repo_files(repository, revision=revision)]
    except Exception:  # noqa: BLE001 (hub clients raise many types; the caller reports what is missing)
        return set()
    weights = [file for file in files if file.parent.name == part and file.suffix == ".safetensors"]
    return {re.sub(r"-\d+-of-\d+$", "", file.stem).partition(".")[2] for file in weights}


def _weight_files(variant: str) -> list[str]:
    """Patterns for the weights of a pipeline's parts, whole or in shards, in safetensors only."""
    names = [f"*/{name}{shard}" for name in ("model", "diffusion_pytorch_model") for shard in ("", "-*-of-*")]
    whole = [f"*/{name}.{variant}" for name in ("model", "diffusion_pytorch_model")]
    dotted = [f"{name}.{variant}" for name in names] + [f"{name}-*-of-*" for name in whole]
    return [f"{name}.safetensors" for name in (dotted if variant else names)]


# --- what a folder must contain ---


def _check_network(folder: Path, source: str, kind: str, reads_text: bool, key: str, instead: str) -> None:
    if missing := _missing_of_network(folder, reads_text):
        raise StageError(f"{key}: {source} has no {missing}; name a {kind} model in safetensors, or {instead}")
    found = _model_type(folder)
    if found != kind:
        raise StageError(f"{key}: {source} is a {found} model, not a {kind}; {instead}")
    for file in sorted(file for name in _LOADED_WEIGHTS for file in folder.glob(name)):
        if problem := _problem_of_weights(file):
            raise StageError(
                f"{key}: {file} cannot be read ({problem}); download it again (in a clone, by `git lfs pull`), or "
                f"{instead}"
            )


def _missing_of_network(folder: Path, reads_text: bool) -> str:
    """The first thing that the folder lacks, or ""."""
    if not (folder / "config.json").is_file():
        return "config.json"
    if not any(folder.glob(_WEIGHTS)):
        return "model.safetensors"
    has_tokenizer = any(all((folder / name).is_file() for name in names) for names in _TOKENIZERS)
    return "" if has_tokenizer or not reads_text else "tokenizer.json"


def _problem_of_weights(file: Path) -> str:
    """Why the file is not a whole one of safetensors, or "". Only its header is read."""
    try:
        with safe_open(file, framework="np"):
            return ""
    except (SafetensorError, OSError) as error:
        return str(error)


def _model_type(folder: Path) -> str:
    try:
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        return str(config.get("model_type") or config["_class_name"])  # transformers' name, or diffusers'
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return "unknown"


def _missing_of_pipeline(folder: Path, variant: str) -> str:
    """The first part or file that the pipeline in the folder lacks, or ""."""
    try:
        index = json.loads((folder / "model_index.json").read_text(encoding="utf-8"))
        parts = [part for part, value in index.items() if isinstance(value, list) and value[0] is not None]
    except (OSError, ValueError, AttributeError, IndexError):
        return "model_index.json"
    for part in parts:
        if part in _UNUSED_PARTS:
            continue
        if not any((folder / part).glob("*.json")):
            return f"{part}/*.json"
        if part.startswith(_WITH_WEIGHTS) and not _has_weights(folder / part, variant):
            return f"{part}/*.safetensors"
    return ""


def _has_weights(folder: Path, variant: str) -> bool:
    files = [file.name.split(".") for file in folder.glob("*.safetensors")]
    return any((variant in parts[1:-1]) if variant else len(parts) == 2 for parts in files)
