"""Draw with models/export/onnx without torch: `python draw_onnx.py FOLDER "a man with a sword" --seed 7`.

It needs numpy, onnxruntime and tokenizers, and writes a PPM picture, which most viewers open.
"""

import argparse
import json
from pathlib import Path

import numpy as np
import onnxruntime
from tokenizers import Tokenizer


def main() -> None:
    """Draw one picture for each prompt."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("prompts", nargs="+")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=Path())
    options = parser.parse_args()
    pictures = draw(options.folder, options.prompts, options.seed)
    for index, picture in enumerate(pictures):
        path = options.out / f"picture-{options.seed}-{index}.ppm"
        height, width, _ = picture.shape
        path.write_bytes(f"P6 {width} {height} 255\n".encode() + picture.tobytes())
        print(path)


def draw(folder: Path, prompts: list[str], seed: int) -> np.ndarray:
    """Pictures (batch, height, width, RGB), each in a few steps x' = a x + b eps from pure noise."""
    sampler = json.loads((folder / "sampler.json").read_text(encoding="utf-8"))
    texts = [sampler["prompt_template"].replace("{caption}", prompt) for prompt in prompts]
    ids = tokens(folder / "tokenizer.json", texts, sampler["caption_chunks"])
    chunks = run(folder / "text_encoder.onnx", input_ids=ids.reshape(-1, ids.shape[-1]))
    embeds = chunks.reshape(len(texts), -1, chunks.shape[-1])

    unet = session(folder / "unet.onnx")
    generator = np.random.default_rng(seed)
    x = generator.standard_normal((len(prompts), *sampler["latent_shape"]), dtype=np.float32)
    for step in sampler["steps"]:
        timesteps = np.full(len(prompts), step["timestep"], dtype=np.int64)
        (eps,) = unet.run(None, {"latents": x, "timesteps": timesteps, "prompt_embeds": embeds})
        x = np.float32(step["a"]) * x + np.float32(step["b"]) * eps

    pixels = run(folder / "vae_decoder.onnx", latents=x)  # in [-1, 1]
    return ((pixels.transpose(0, 2, 3, 1) + 1) * 127.5).round().astype(np.uint8)


def tokens(path: Path, texts: list[str], num_chunks: int) -> np.ndarray:
    """Ids (text, chunk, token): each chunk has a begin token, a part of the text, an end token and padding."""
    tokenizer = Tokenizer.from_file(str(path))  # pads and truncates to one chunk
    begin, end, *padding = tokenizer.encode("").ids
    tokenizer.no_padding()
    tokenizer.no_truncation()
    size, ids = len(padding), []
    for encoding in tokenizer.encode_batch(texts, add_special_tokens=False):
        parts = [encoding.ids[first : first + size] for first in range(0, num_chunks * size, size)]
        ids.append([[begin, *part, end, *padding[len(part) :]] for part in parts])
    return np.array(ids, dtype=np.int64)


def session(path: Path) -> onnxruntime.InferenceSession:
    """The network, on the CPU."""
    return onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])


def run(path: Path, **inputs: np.ndarray) -> np.ndarray:
    """The output of a network that runs once."""
    return session(path).run(None, inputs)[0]


if __name__ == "__main__":
    main()
