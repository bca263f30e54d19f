"""Errors of loading a pipeline, as messages that name what cannot be loaded and the remedy."""

from collections.abc import Collection, Generator
from contextlib import contextmanager
from pathlib import Path

from torch import nn

from naruto_add.config.schema import Base
from naruto_add.runtime.errors import StageError
from naruto_add.runtime.hub_errors import is_unreachable, refusal, unreachable


@contextmanager
def loading_stage_output(folder: Path) -> Generator[None]:
    """Errors of loading from this folder become StageErrors. A missing folder is one: diffusers would try the hub."""
    with loading(str(folder), "run `dvc repro` to make it again"):
        if not folder.is_dir():
            raise FileNotFoundError("no such folder")
        yield


@contextmanager
def loading_from_hub(base: Base) -> Generator[None]:
    """Errors of loading a hub repository say what the hub refused, or that it is out of reach."""
    try:
        yield
    except StageError as error:
        if Path(base.model).exists():
            raise
        where = {"key": "base.model", "repository": base.model, "revision": base.revision}
        reason = refusal(error, **where) or (unreachable(**where) if is_unreachable(error) else "")
        raise StageError(reason or str(error)) from error


@contextmanager
def loading(subject: str, remedy: str) -> Generator[None]:
    """Errors of loading become a StageError that names the subject and the remedy."""
    try:
        yield
    except StageError:
        raise
    except Exception as error:  # the libraries raise nearly any error for damaged and foreign files
        raise StageError(f"{subject} cannot be loaded: {_as_text(error)}; {remedy}") from error


def require_all_weights(*networks: nn.Module) -> None:
    """Raise ValueError if a network has weights without values, because the files that it was loaded from lack them.

    diffusers leaves such weights on the device `meta`.
    """
    for network in networks:
        require_none_missing(network, [name for name, weight in network.named_parameters() if weight.is_meta])


def require_none_missing(network: nn.Module, names: Collection[str]) -> None:
    """Raise ValueError if there are names. transformers gives missing weights random values, and only prints them."""
    if names:
        raise ValueError(f"the files of {type(network).__name__} lack {len(names)} weights, such as {min(names)}")


def _as_text(error: Exception) -> str:
    """OSErrors and ValueErrors of the libraries are written for the user; others need the name of their class."""
    text = str(error)
    if isinstance(error, (OSError, ValueError)):
        return text
    return f"{type(error).__name__}: {text.partition(chr(10))[0]}"
