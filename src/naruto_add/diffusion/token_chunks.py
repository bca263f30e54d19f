"""Prompts in several chunks (`base.caption_chunks`), as AUTOMATIC1111 and compel encode long prompts; needs no torch.

The text encoder reads each chunk as a prompt of its own, with a begin and an end token, and its embeddings of
the chunks are joined along the sequence.
"""

from collections.abc import Sequence


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
