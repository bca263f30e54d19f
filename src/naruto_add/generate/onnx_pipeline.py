"""Draw with an exported student without torch: numpy, onnxruntime and tokenizers are enough."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from naruto_add.diffusion.token_chunks import token_chunks
from naruto_add.runtime.errors import StageError
from naruto_add.runtime.extras import install_command

TEXT_ENCODER, UNET, VAE_DECODER = "text_encoder.onnx", "unet.onnx", "vae_decoder.onnx"
TOKENIZER, SAMPLER = "tokenizer.json", "sampler.json"
Floats = NDArray[np.float32]


class OnnxPipeline:
    """The networks, the tokenizer and the sampler of one folder, on the CPU."""

    def __init__(self, folder: Path, *, num_threads: int = 0) -> None:
        """Load the folder; with 0 threads, onnxruntime chooses. Raises StageError if a package or file is missing."""
        try:
            import onnxruntime
            from tokenizers import Tokenizer
        except ImportError as error:
            raise StageError(
                f"onnx needs the package {error.name}; install it: `{install_command('onnxruntime')}`"
            ) from error
        if not (folder / SAMPLER).is_file():
            raise StageError(
                f"{folder}: has no {SAMPLER}; add {folder.name} to export.formats and run `dvc repro export`"
            )
        self.sampler: dict[str, Any] = json.loads((folder / SAMPLER).read_text(encoding="utf-8"))
        self._tokenizer = Tokenizer.from_file(str(folder / TOKENIZER))
        self._empty = self._tokenizer.encode("").ids
        self._tokenizer.no_truncation()
        self._tokenizer.no_padding()
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = num_threads
        options.log_severity_level = 3
        options.add_session_config_entry("session.disable_quant_qdq", "1")  # int8 weights are restored once, on loading
        self._networks = {
            name: onnxruntime.InferenceSession(str(folder / name), options, providers=["CPUExecutionProvider"])
            for name in (TEXT_ENCODER, UNET, VAE_DECODER)
        }

    @property
    def latent_shape(self) -> tuple[int, ...]:
        """Channels, height and width of the latents of one picture."""
        return tuple(self.sampler["latent_shape"])

    def draw(self, prompts: Sequence[str], noise: Floats) -> NDArray[np.uint8]:
        """Pictures (batch, height, width, RGB) of complete prompts, from noise of `latent_shape` for each."""
        embeds, latents = self.encode(prompts), noise
        for step in self.sampler["steps"]:
            latents = step["a"] * latents + step["b"] * self.noise_pred(latents, step["timestep"], embeds)
        (pixels,) = self._run(VAE_DECODER, latents=latents.astype(np.float32))
        return ((pixels.transpose(0, 2, 3, 1) + 1) * 127.5).round().astype(np.uint8)

    def encode(self, prompts: Sequence[str]) -> Floats:
        """Text embeddings of the prompts."""
        tokens = np.array(self._tokens(prompts), dtype=np.int64)
        chunks: Floats = self._run(TEXT_ENCODER, input_ids=tokens.reshape(-1, len(self._empty)))[0]
        return chunks.reshape(*tokens.shape, -1)

    def _tokens(self, prompts: Sequence[str]) -> list[list[int]]:
        """Ids of all chunks of each prompt."""
        num_chunks = self.sampler.get("caption_chunks", 1)  # missing in folders of earlier versions
        encoded = self._tokenizer.encode_batch(list(prompts), add_special_tokens=False)
        return [token_chunks(encoding.ids, self._empty, num_chunks) for encoding in encoded]

    def noise_pred(self, latents: Floats, timestep: int, embeds: Floats) -> Floats:
        """Epsilon of noisy latents at one timestep."""
        timesteps = np.full(len(latents), timestep, dtype=np.int64)
        noisy = latents.astype(np.float32)
        predicted: Floats = self._run(UNET, latents=noisy, timesteps=timesteps, prompt_embeds=embeds)[0]
        return predicted

    def _run(self, network: str, **inputs: NDArray[Any]) -> list[Any]:
        outputs: list[Any] = self._networks[network].run(None, inputs)
        return outputs
