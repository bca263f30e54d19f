"""Prompts in several chunks (`base.caption_chunks`), as AUTOMATIC1111 and compel encode long prompts; needs no torch.

The text encoder reads each chunk as a prompt of its own, with a begin and an end token, and its embeddings of
the chunks are joined along the sequence. Every prompt has all chunks: a shorter one is filled up with empty chunks,
which AUTOMATIC1111 leaves out.
"""

from collections.abc import Sequence

TOKENS_PER_CHUNK = 75
"""Tokens of a prompt that CLIP's text encoder takes at once."""
CHUNK_LENGTH = TOKENS_PER_CHUNK + 2
"""Tokens of a chunk with its begin and end tokens."""


def token_chunks(ids: Sequence[int], empty: Sequence[int], num_chunks: int) -> list[int]:
    """The tokens of a prompt in chunks, one after the other; tokens beyond the last chunk are left out.

    `ids` are its tokens without begin and end. `empty` are those of the empty prompt, padded to the length of a chunk:
    begin, end, padding.
    """
    begin, end, *padding = empty
    size = len(padding)
    chunks = []
    for first in range(0, num_chunks * size, size):
        part = ids[first : first + size]
        chunks += [begin, *part, end, *padding[len(part) :]]
    return chunks
