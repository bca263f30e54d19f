"""Cut CLIP's vocabulary down to its first merges: `python -m recipe.tokenizer` in base/.

Byte-pair merges are in order of frequency, so the first few thousand of CLIP's vocabulary make the commonest English
words; rarer words become several tokens. The format and the special tokens are CLIP's, with a tenth of the embeddings.
"""

import gzip
from pathlib import Path

import open_clip
from transformers import CLIPTokenizer
from transformers.convert_slow_tokenizer import bytes_to_unicode

from naruto_add.diffusion.bundle import forget_paths
from recipe.artifacts import MODEL, section

MAX_LENGTH = 77


def make_tokenizer(out_dir: Path, *, num_merges: int) -> None:
    """Save a CLIPTokenizer of 512 + `num_merges` + 2 tokens."""
    packed = Path(open_clip.__file__).with_name("bpe_simple_vocab_16e6.txt.gz")
    lines = gzip.decompress(packed.read_bytes()).decode().splitlines()
    merges = lines[1 : num_merges + 1]
    alphabet = list(bytes_to_unicode().values())
    tokens = alphabet + [char + "</w>" for char in alphabet] + ["".join(merge.split()) for merge in merges]
    tokens += ["<|startoftext|>", "<|endoftext|>"]
    vocab = {token: index for index, token in enumerate(tokens)}
    tokenizer = CLIPTokenizer(
        vocab=vocab, merges=[tuple(merge.split()) for merge in merges], model_max_length=MAX_LENGTH
    )
    tokenizer.save_pretrained(out_dir)
    forget_paths(out_dir.parent)


if __name__ == "__main__":
    make_tokenizer(MODEL / "tokenizer", **section("tokenizer"))
