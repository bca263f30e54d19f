"""Where the recipe keeps what it makes, and how its stages read their parameters. Everything is relative to base/."""

from pathlib import Path
from typing import Any

from ruamel.yaml import YAML

MODEL = Path("model")
CHECKPOINTS = Path(".checkpoints")
AUTOENCODER = Path("autoencoder")
DENOISER = Path("denoiser")
DECODER = Path("decoder")


def section(name: str) -> dict[str, Any]:
    """The named section of params.yaml, to be passed as keyword arguments: an unknown key is a TypeError."""
    values = YAML(typ="safe").load(Path("params.yaml"))[name]
    return dict(values)
