"""Captions: cleaned text, and its length in the tokens of the base model."""

import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from naruto_add.runtime.errors import StageError

MIN_VOCABULARY_SIZE = 512
"""CLIP's vocabulary holds each of the 256 bytes twice: within a word and at its end."""
_REMOVED_CATEGORIES = ("Cc", "Cs")
"""Unicode's control characters, and lone surrogates, which UTF-8 cannot encode."""


@dataclass(frozen=True, kw_only=True)
class TokenCounts:
    """Tokens per caption, with the begin and end tokens, and the number of captions that exceed the model's limit."""

    mean: float
    max: int
    num_truncated: int


def clean_caption(text: object) -> str:
    """The caption in Unicode's composed form (NFC), with single spaces between words; "" if it is not a string."""
    if not isinstance(text, str):
        return ""
    composed = unicodedata.normalize("NFC", " ".join(text.replace("\ufeff", "").split()))
    return "".join(char for char in composed if unicodedata.category(char) not in _REMOVED_CATEGORIES).strip()


def count_tokens(captions: Sequence[str], model: str, revision: str) -> TokenCounts:
    """Token counts by the base model's tokenizer. Raises StageError if the tokenizer cannot be loaded."""
    from transformers import CLIPTokenizer  # takes seconds; the processes that decode pictures do not need it

    try:
        if Path(model).is_dir():
            tokenizer = CLIPTokenizer.from_pretrained(Path(model) / "tokenizer", local_files_only=True)
        else:
            tokenizer = CLIPTokenizer.from_pretrained(model, subfolder="tokenizer", revision=revision)
    except (OSError, ValueError) as error:
        raise StageError(
            f"base.model: the tokenizer of {model!r} cannot be loaded ({error}); name a Stable Diffusion 1.x model in "
            "diffusers format"
        ) from error
    if len(tokenizer) < MIN_VOCABULARY_SIZE:  # transformers returns an empty tokenizer for a model that is not cached
        raise StageError(
            f"base.model: the tokenizer of {model!r} is not in the Hugging Face cache; run once with network access"
        )
    counts = [len(ids) for ids in tokenizer(list(captions), truncation=False, verbose=False)["input_ids"]]
    num_truncated = sum(count > tokenizer.model_max_length for count in counts)
    return TokenCounts(mean=sum(counts) / len(counts), max=max(counts), num_truncated=num_truncated)
