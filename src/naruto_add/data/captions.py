"""Captions: cleaned text, and the length of its prompt in the tokens of the base model."""

import tempfile
import unicodedata
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from naruto_add.data.prompts import fill_template
from naruto_add.runtime.clip_tokenizer import write_clip_tokenizer
from naruto_add.runtime.errors import StageError

MIN_VOCABULARY_SIZE = 512
"""CLIP's vocabulary holds each of the 256 bytes twice: within a word and at its end."""
_REMOVED_CATEGORIES = ("Cc", "Cs")
"""Unicode's control characters, and lone surrogates, which UTF-8 cannot encode."""
_INVISIBLE_CATEGORIES = ("Cf", "Mn", "Me", "Zl", "Zp", "Zs")
"""Zero-width and direction marks, marks that need a letter, and white space."""
_BLANK_LETTERS = "\u115f\u1160\u2800\u3164\uffa0"
"""Letters and symbols that show nothing: Hangul fillers and the empty Braille cell."""


@dataclass(frozen=True, kw_only=True)
class TokenCounts:
    """Tokens per prompt, with the begin and end tokens, and what the model does not see of long prompts."""

    mean: float
    max: int
    lost: dict[str, str]
    """The end of each prompt that exceeds the model's limit, from the first token that is cut off, by caption."""


def clean_caption(text: object) -> str:
    """The caption in Unicode's composed form (NFC), with single spaces between words.

    It is "" for what is not a string or shows nothing. Zero-width characters between visible ones are kept: they join
    emoji and letters.
    """
    if not isinstance(text, str):
        return ""
    composed = unicodedata.normalize("NFC", " ".join(text.replace("\ufeff", "").split()))
    kept = "".join(char for char in composed if unicodedata.category(char) not in _REMOVED_CATEGORIES).strip()
    return kept if any(map(_is_visible, kept)) else ""


def clean_captions(texts: object) -> tuple[str, ...]:
    """The captions of one picture, each cleaned and once, without empty ones; `texts` is a string or a list of them."""
    cleaned: Iterable[str] = map(clean_caption, texts if isinstance(texts, (list, tuple)) else [texts])
    return tuple(dict.fromkeys(caption for caption in cleaned if caption))


def _is_visible(char: str) -> bool:
    return unicodedata.category(char) not in _INVISIBLE_CATEGORIES and char not in _BLANK_LETTERS


def count_tokens(
    captions: Sequence[str], model: str, revision: str, *, prompt_template: str, num_chunks: int
) -> TokenCounts:
    """Token counts, by the base model's tokenizer, of the captions in the prompt template.

    Raises StageError if the tokenizer cannot be loaded.
    """
    from transformers import CLIPTokenizer  # takes seconds; the processes that decode pictures do not need it

    try:
        if Path(model).is_file():
            with tempfile.TemporaryDirectory() as folder:
                write_clip_tokenizer(Path(folder), padding="<|endoftext|>")
                tokenizer = CLIPTokenizer.from_pretrained(folder, local_files_only=True)
        elif Path(model).is_dir():
            tokenizer = CLIPTokenizer.from_pretrained(Path(model) / "tokenizer", local_files_only=True)
        else:
            tokenizer = CLIPTokenizer.from_pretrained(model, subfolder="tokenizer", revision=revision)
    except (OSError, ValueError) as error:
        raise StageError(
            f"base.model: the tokenizer of {model!r} cannot be loaded ({error}); name a model of Stable Diffusion "
            "1.x or 2.x"
        ) from error
    if len(tokenizer) < MIN_VOCABULARY_SIZE:  # transformers returns an empty tokenizer for a model that is not cached
        raise StageError(
            f"base.model: the tokenizer of {model!r} is not in the Hugging Face cache; run once with network access"
        )
    prompts = [fill_template(prompt_template, caption) for caption in captions]
    encoded = tokenizer(prompts, truncation=False, verbose=False, return_offsets_mapping=True)
    counts = [len(ids) for ids in encoded["input_ids"]]
    first_cut = 1 + num_chunks * (tokenizer.model_max_length - 2)  # each chunk has a begin and an end token
    lost = {
        caption: prompt[offsets[first_cut][0] :]
        for caption, prompt, offsets in zip(captions, prompts, encoded["offset_mapping"], strict=True)
        if len(offsets) > first_cut + 1
    }
    return TokenCounts(mean=sum(counts) / len(counts), max=max(counts), lost=lost)
