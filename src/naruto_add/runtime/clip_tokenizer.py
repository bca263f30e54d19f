"""CLIP's tokenizer, for base models that do not bring one: single files in the original layout."""

import gzip
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

MERGES_PATH = Path(__file__).parent / "clip_merges.txt.gz"
"""The merges of CLIP's byte-pair encoding, from which its vocabulary follows."""
VOCABULARY_SIZE = 49408


def write_clip_tokenizer(folder: Path, *, padding: str) -> None:
    """Write vocab.json and merges.txt of CLIP's tokenizer, and its configuration with this padding token."""
    merges = gzip.decompress(MERGES_PATH.read_bytes()).decode("utf-8").splitlines()
    printable = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    others = [byte for byte in range(256) if byte not in printable]
    characters = [chr(byte) for byte in printable] + [chr(256 + index) for index in range(len(others))]
    tokens = [*characters, *(f"{character}</w>" for character in characters), *("".join(m.split()) for m in merges)]
    tokens += ["<|startoftext|>", "<|endoftext|>"]
    write_config(folder / "vocab.json", {token: index for index, token in enumerate(tokens)})
    (folder / "merges.txt").write_text("\n".join(["#version: 0.2", *merges, ""]), encoding="utf-8")
    special = {"bos_token": "<|startoftext|>", "eos_token": "<|endoftext|>", "unk_token": "<|endoftext|>"}
    config = {"tokenizer_class": "CLIPTokenizer", "model_max_length": 77, "pad_token": padding, **special}
    write_config(folder / "tokenizer_config.json", config)


def write_config(path: Path, value: Mapping[str, Any]) -> None:
    """Write a configuration as JSON, and its folder."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value, ensure_ascii=False), encoding="utf-8")
