"""Where the recipe keeps what it makes, and how its stages read their parameters. Everything is relative to base/."""

import json
from pathlib import Path
from typing import Any

import numpy as np
from ruamel.yaml import YAML

PICTURES = Path("data")
MODEL = Path("model")
CHECKPOINTS = Path(".checkpoints")
AUTOENCODER = Path("autoencoder")


def section(name: str) -> dict[str, Any]:
    """The named section of params.yaml, to be passed as keyword arguments: an unknown key is a TypeError."""
    values = YAML(typ="safe").load(Path("params.yaml"))[name]
    return dict(values)


def load_people(*, held_out: bool) -> tuple[np.ndarray, list[str]]:
    """Images (uint8, NHWC) and captions of the people in the training set, or of those held out."""
    record = json.loads((PICTURES / "captions.json").read_text())
    images = np.load(PICTURES / "people.npy", mmap_mode="r")
    cut = len(images) - record["num_held_out"]
    part = slice(cut, None) if held_out else slice(cut)
    return images[part], record["captions"][part]


def members(family: str) -> list[int]:
    """The places in the training set of the people of one family: villager, avatar or comic."""
    record = json.loads((PICTURES / "captions.json").read_text())
    cut = len(record["families"]) - record["num_held_out"]
    return [place for place, name in enumerate(record["families"][:cut]) if name == family]
