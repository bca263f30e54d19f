"""Captions: cleaned once, and counted in the tokens of the base model's own tokenizer."""

import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from naruto_add.runtime import StageError

_UNPRINTABLE = ("Cc", "Cs")
"""Unicode's control characters, and surrogates, which no file can hold."""


@dataclass(frozen=True, kw_only=True)
class TokenCounts:
    """Tokens per caption, begin and end tokens included, and how many captions are longer than the model reads."""

    mean: float
    max: int
    num_truncated: int


def clean_caption(text: object) -> str:
    """The caption in Unicode's composed form (NFC), spaces single, none at the ends; empty for what is not text."""
    if not isinstance(text, str):
        return ""
    composed = unicodedata.normalize("NFC", " ".join(text.replace("\ufeff", "").split()))
    return "".join(char for char in composed if unicodedata.category(char) not in _UNPRINTABLE).strip()


SMALLEST_VOCABULARY = 512
"""CLIP's has every byte twice: inside words and at their ends."""


def count_tokens(captions: Sequence[str], model: str, revision: str) -> TokenCounts:
    """Counts in the base model's tokens. Raises StageError where its tokenizer cannot be loaded."""
    from transformers import CLIPTokenizer  # takes seconds, which every decoding process would pay too

    try:
        if Path(model).is_dir():
            tokenizer = CLIPTokenizer.from_pretrained(Path(model) / "tokenizer", local_files_only=True)
        else:
            tokenizer = CLIPTokenizer.from_pretrained(model, subfolder="tokenizer", revision=revision)
    except (OSError, ValueError) as error:
        raise StageError(f"base.model: {model!r} gives no tokenizer: {error}") from error
    if len(tokenizer) < SMALLEST_VOCABULARY:  # what transformers returns for one that is out of reach
        raise StageError(
            f"base.model: {model!r} gives no tokenizer: it is not in the hub's cache; run once where there is a network"
        )
    counts = [len(ids) for ids in tokenizer(list(captions), truncation=False, verbose=False)["input_ids"]]
    num_truncated = sum(count > tokenizer.model_max_length for count in counts)
    return TokenCounts(mean=sum(counts) / len(counts), max=max(counts), num_truncated=num_truncated)
