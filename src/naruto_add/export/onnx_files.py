"""The student as ONNX networks with its tokenizer and sampler, for drawing without torch; checked against torch.

The files are in fp32. The batch size is free; the picture size is the student's.
"""

import copy
import hashlib
import io
import json
import warnings
from collections.abc import Sequence
from contextlib import redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn

from naruto_add.comparison.draw import draw_pixels
from naruto_add.diffusion.bundle import ModelBundle, encode_prompts, tokenize
from naruto_add.diffusion.noise import add_noise, alphas_cumprod
from naruto_add.diffusion.placement import on_device
from naruto_add.diffusion.sampling import Sampler, initial_noise, noise_pred
from naruto_add.generate.onnx_pipeline import SAMPLER, TEXT_ENCODER, TOKENIZER, UNET, VAE_DECODER, OnnxPipeline
from naruto_add.imaging.pixels import to_uint8
from naruto_add.runtime.errors import StageError

Format = Literal["onnx", "onnx_int8", "demo"]
NOISE_PRED_TOLERANCES: dict[Format, float] = {"onnx": 1e-3, "onnx_int8": 0.5, "demo": 0.02}
"""Largest allowed absolute difference of epsilon, at every trained timestep."""
IMAGE_TOLERANCES: dict[Format, float] = {"onnx": 2.0, "onnx_int8": 10.0, "demo": 2.0}
"""Largest allowed mean absolute difference of pictures, of 255."""
MAX_FILE_BYTES = 2**31 - 2**24
"""A larger network has its weights in a separate file, because a protobuf message holds at most 2 GiB."""


@dataclass(frozen=True)
class OnnxParity:
    """Differences from torch: the largest of epsilon, and the mean of pictures, of 255."""

    noise_pred: float
    images: float


def write_onnx(student: ModelBundle, folder: Path, *, scheduler: Any, num_steps: int, prompt_template: str) -> None:
    """Write the three networks, tokenizer.json, which pads and truncates, and sampler.json.

    sampler.json has an id of the other files, so that the demo page does not draw with those of another model.
    """
    folder.mkdir(parents=True, exist_ok=True)
    noise = initial_noise(student, 2, seed=0)
    ids = tokenize(student, ["", ""]).to(student.device)
    embeds, timesteps = encode_prompts(student, ["", ""]), torch.tensor([1, 2], device=student.device)
    one_chunk = ids[:, : student.tokenizer.model_max_length].contiguous()
    inputs = {"latents": noise, "timesteps": timesteps, "prompt_embeds": embeds}
    with on_device(student.device, *student.networks):
        _write(_TextEncoder(student.text_encoder), {"input_ids": one_chunk}, "prompt_embeds", folder / TEXT_ENCODER)
        _write(_Unet(student.unet), inputs, "noise_pred", folder / UNET)
        _write(_Decoder(student.vae), {"latents": noise}, "pixels", folder / VAE_DECODER)
    _write_tokenizer(student, folder / TOKENIZER)
    sampler = {
        "id": files_id(folder),
        "latent_shape": list(student.latent_shape),
        "prompt_template": prompt_template,
        "caption_chunks": student.caption_chunks,
        "steps": sampler_steps(scheduler, num_steps),
    }
    (folder / SAMPLER).write_text(json.dumps(sampler, indent=2) + "\n", encoding="utf-8")


def sampler_steps(scheduler: Any, num_steps: int) -> list[dict[str, float | int]]:
    """Each step of a deterministic scheduler: its timestep, and a and b of x' = a x + b eps."""
    scheduler = copy.deepcopy(scheduler)
    scheduler.set_timesteps(num_steps)
    one, zero = torch.ones(1), torch.zeros(1)
    return [
        {
            "timestep": int(timestep),
            "a": scheduler.step(zero, timestep, one, return_dict=False)[0].item(),
            "b": scheduler.step(one, timestep, zero, return_dict=False)[0].item(),
        }
        for timestep in scheduler.timesteps
    ]


def check_onnx(
    student: ModelBundle,
    pipeline: OnnxPipeline,
    *,
    scheduler: Any,
    timesteps: Sequence[int],
    prompts: list[str],
    seed: int,
    name: Format = "onnx",
) -> OnnxParity:
    """Compare predictions at every trained timestep, and pictures, with torch's.

    Raises StageError if they differ by more than the tolerance of the format `name`.
    """
    noise, embeds = initial_noise(student, len(prompts), seed=seed), encode_prompts(student, prompts)
    parity = OnnxParity(
        noise_pred=max(_noise_pred_difference(student, pipeline, noise, embeds, prompts, t) for t in timesteps),
        images=_image_difference(student, pipeline, noise, scheduler, len(timesteps), prompts),
    )
    remedy = f"leave {name} out" + (
        "" if name == "onnx_int8" else ", or install other versions of onnxruntime and onnxscript"
    )
    for what, found, allowed in (
        ("predictions", parity.noise_pred, NOISE_PRED_TOLERANCES[name]),
        ("pictures (of 255)", parity.images, IMAGE_TOLERANCES[name]),
    ):
        if not found <= allowed:
            raise StageError(
                f"export.formats: {name}: {what} differ from torch's by {found:.2g}, more than {allowed:.2g}; {remedy}"
            )
    return parity


class _TextEncoder(nn.Module):
    def __init__(self, text_encoder: nn.Module) -> None:
        super().__init__()
        self.text_encoder = text_encoder

    def forward(self, input_ids: Tensor) -> Tensor:
        hidden: Tensor = self.text_encoder(input_ids).last_hidden_state
        return hidden


class _Unet(nn.Module):
    """Epsilon, also of a U-Net that predicts v."""

    def __init__(self, unet: nn.Module) -> None:
        super().__init__()
        self.unet = unet

    def forward(self, latents: Tensor, timesteps: Tensor, prompt_embeds: Tensor) -> Tensor:
        return noise_pred(self.unet, latents, timesteps, prompt_embeds)


class _Decoder(nn.Module):
    """Decodes scaled latents to pixels in [-1, 1]."""

    def __init__(self, vae: Any) -> None:
        super().__init__()
        self.vae = vae

    def forward(self, latents: Tensor) -> Tensor:
        pixels: Tensor = self.vae.decode(latents / self.vae.config.scaling_factor, return_dict=False)[0]
        return pixels.clamp(-1, 1)


def _write(module: nn.Module, inputs: dict[str, Tensor], output: str, path: Path) -> None:
    """Export without the file names and line numbers of this machine, which the exporter records in every node."""
    with warnings.catch_warnings(), redirect_stdout(io.StringIO()), torch.no_grad():
        warnings.simplefilter("ignore")
        program = torch.onnx.export(
            module.eval(),
            tuple(inputs.values()),
            dynamo=True,
            input_names=list(inputs),
            output_names=[output],
            dynamic_shapes=tuple({0: torch.export.Dim.DYNAMIC} for _ in inputs),
            verbose=False,
        )
    assert program is not None, "dynamo=True returns the program"
    for node in program.model.graph.all_nodes():
        node.metadata_props.clear()
    num_bytes = sum(weight.numel() * weight.element_size() for weight in module.state_dict().values())
    program.save(str(path), external_data=num_bytes > MAX_FILE_BYTES)


def has_separate_weights(network: Path) -> bool:
    """Whether the weights of this network are in a file of their own next to it, because they exceed one message."""
    return network.with_name(f"{network.name}.data").exists()


def files_id(folder: Path) -> str:
    """A hash of the names and bytes of the files in a folder."""
    digest = hashlib.sha256()
    for path in sorted(folder.iterdir()):
        digest.update(f"{path.name}\n".encode())
        with path.open("rb") as stream:
            digest.update(hashlib.file_digest(stream, "sha256").digest())
    return digest.hexdigest()


def _write_tokenizer(student: ModelBundle, path: Path) -> None:
    from tokenizers import Tokenizer

    tokenizer = student.tokenizer
    own = Tokenizer.from_str(tokenizer.backend_tokenizer.to_str())
    own.enable_truncation(tokenizer.model_max_length)
    own.enable_padding(
        length=tokenizer.model_max_length, pad_id=tokenizer.pad_token_id, pad_token=str(tokenizer.pad_token)
    )
    own.save(str(path))


def _noise_pred_difference(
    student: ModelBundle, pipeline: OnnxPipeline, noise: Tensor, embeds: Tensor, prompts: list[str], timestep: int
) -> float:
    """The largest difference for inputs noised to this timestep; each pipeline encodes the prompts itself."""
    timesteps = torch.full((len(noise),), timestep, device=noise.device)
    noisy = add_noise(noise.roll(1, 0), noise, timesteps, alphas_cumprod=alphas_cumprod(student.scheduler))
    with torch.no_grad(), on_device(student.device, student.unet):
        ours = noise_pred(student.unet, noisy, timesteps, embeds).cpu().numpy()
    theirs = pipeline.noise_pred(noisy.cpu().numpy(), timestep, pipeline.encode(prompts))
    return float(np.abs(ours - theirs).max())


def _image_difference(
    student: ModelBundle, pipeline: OnnxPipeline, noise: Tensor, scheduler: Any, num_steps: int, prompts: list[str]
) -> float:
    sampler, embeds = Sampler(scheduler, num_steps, guidance_scale=1.0), encode_prompts(student, prompts)
    pixels = draw_pixels(student, sampler, prompt_embeds=embeds, noise=noise, seed=0, indices=range(len(prompts)))
    theirs = pipeline.draw(prompts, noise.cpu().numpy())
    return float(np.abs(to_uint8(pixels).astype(float) - theirs).mean())
