"""Whether the parts of a pipeline folder fit each other, by their configuration files alone.

Folders that were put together from several models load without an error and fail in the middle of a stage.
"""

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from naruto_add.runtime.errors import StageError


def check_parts_fit(folder: Path) -> None:
    """Raises StageError that lists every pair of parts of the pipeline in `folder` that do not fit each other.

    Files that are missing are not checked: loading reports them. Raises StageError for a damaged one.
    """
    vae, unet, text_encoder = (_read(folder / part / "config.json") for part in ("vae", "unet", "text_encoder"))
    tokenizer = _read(folder / "tokenizer/tokenizer_config.json")
    pairs = [
        ("unet in_channels", unet.get("in_channels"), "vae latent_channels", vae.get("latent_channels")),
        ("unet out_channels", unet.get("out_channels"), "unet in_channels", unet.get("in_channels")),
        (
            "unet cross_attention_dim",
            unet.get("cross_attention_dim"),
            "text_encoder hidden_size",
            text_encoder.get("hidden_size"),
        ),
    ]
    problems = [*_unequal(pairs), *_too_large(folder, tokenizer, text_encoder)]
    if problems:
        raise StageError(
            f"base.model: the parts of {str(folder)!r} do not fit each other: {'; '.join(problems)}. Name a folder "
            "whose parts are all of one model"
        )


def _unequal(pairs: list[tuple[str, Any, str, Any]]) -> Iterator[str]:
    for name, value, other_name, other in pairs:
        if isinstance(value, int) and isinstance(other, int) and value != other:
            yield f"{name} is {value}, but {other_name} is {other}"


def _too_large(folder: Path, tokenizer: Mapping[str, Any], text_encoder: Mapping[str, Any]) -> Iterator[str]:
    """The text encoder must have an embedding for every token and every position."""
    last_token, num_embeddings = _last_token(folder / "tokenizer"), text_encoder.get("vocab_size")
    if last_token is not None and isinstance(num_embeddings, int) and last_token >= num_embeddings:
        yield f"the tokenizer has tokens up to {last_token}, but text_encoder vocab_size is {num_embeddings}"
    length, positions = tokenizer.get("model_max_length"), text_encoder.get("max_position_embeddings")
    if isinstance(length, int) and isinstance(positions, int) and length > positions:
        yield f"tokenizer model_max_length is {length}, but text_encoder max_position_embeddings is {positions}"


def _last_token(tokenizer: Path) -> int | None:
    model = _read(tokenizer / "tokenizer.json").get("model", {})
    vocabulary = model.get("vocab") if isinstance(model, dict) else None
    ids = (vocabulary if isinstance(vocabulary, dict) else _read(tokenizer / "vocab.json")).values()
    return max((token for token in ids if isinstance(token, int)), default=None)


def _read(path: Path) -> dict[str, Any]:
    """The content of the file; empty if it is missing."""
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as error:
        raise StageError(f"base.model: {str(path)!r} is damaged ({error}); get the model's folder again") from error
    if not isinstance(values, dict):
        raise StageError(f"base.model: {str(path)!r} is damaged (no object at its top); get the model's folder again")
    return values
