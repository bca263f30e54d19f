"""Look at the base model (`python -m recipe.check`): writes metrics.json, samples.png and reconstructions.png."""

from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from naruto_add.data.shinobi.draw import draw_shinobi
from naruto_add.diffusion.bundle import (
    ModelBundle,
    decode_latents,
    encode_pixels,
    encode_prompts,
    load_pipeline_folder,
)
from naruto_add.diffusion.sampling import Sampler, initial_noise, sample_latents
from naruto_add.imaging.grid import GridColumn, GridRow, make_grid, to_images
from naruto_add.runtime.files import write_json
from recipe.artifacts import MODEL, load_people, section

CELL_PX = 128
NUM_PSNR_PICTURES = 256


def check(*, seed: int, num_pictures: int, num_steps: int, guidance_scale: float) -> None:
    """Draw held-out captions, copy held-out people and shinobi through the autoencoder, and measure the copies."""
    bundle = load_pipeline_folder(MODEL, precision="fp32")
    images, captions = load_people(held_out=True)
    sampler = Sampler(bundle.scheduler, num_steps, guidance_scale)
    drawn = _draw(bundle, captions[:num_pictures], sampler, seed)
    real = [Image.fromarray(image) for image in images[:num_pictures]]
    rows = [GridRow(caption, pair) for caption, *pair in zip(captions, drawn, real, strict=False)]
    _save(rows, [GridColumn("drawn", f"{num_steps} steps"), GridColumn("held out", "never seen")], Path("samples.png"))

    domains = {
        "people": _pixels(images[:NUM_PSNR_PICTURES]),
        "shinobi": _pixels(np.stack([_shinobi(index) for index in range(NUM_PSNR_PICTURES)])),
    }
    copies = {name: decode_latents(bundle, encode_pixels(bundle, pixels)) for name, pixels in domains.items()}
    write_json(Path("metrics.json"), {f"psnr_{name}": _psnr(domains[name], copies[name]) for name in domains})
    shown = num_pictures // 4
    rows = [
        GridRow(name, pair)
        for name in domains
        for pair in zip(to_images(domains[name][:shown]), to_images(copies[name][:shown]), strict=True)
    ]
    _save(rows, [GridColumn("original", ""), GridColumn("copy", "")], Path("reconstructions.png"))


def _draw(bundle: ModelBundle, prompts: list[str], sampler: Sampler, seed: int) -> list[Image.Image]:
    latents = sample_latents(
        bundle.unet,
        noise=initial_noise(bundle, len(prompts), seed=seed),
        prompt_embeds=encode_prompts(bundle, prompts),
        negative_embeds=encode_prompts(bundle, [""]),
        sampler=sampler,
    )
    return to_images(decode_latents(bundle, latents))


def _psnr(pixels: Tensor, copies: Tensor) -> float:
    """Mean over pictures, in dB, of values in [0, 1]."""
    error = ((pixels - copies) / 2).square().mean(dim=(1, 2, 3))
    return (-10 * error.log10()).mean().item()


def _shinobi(index: int) -> np.ndarray:
    """A picture of the universe that the base has never seen."""
    return np.asarray(draw_shinobi(index, seed=0, size_px=64).image)


def _pixels(images: np.ndarray) -> Tensor:
    return torch.from_numpy(np.array(images)).permute(0, 3, 1, 2).float() / 127.5 - 1


def _save(rows: list[GridRow], columns: list[GridColumn], path: Path) -> None:
    make_grid(rows, columns=columns, cell_px=CELL_PX, path=path, metadata={})


if __name__ == "__main__":
    check(**section("check"))
