"""Measure the base model: `python -m recipe.check` in base/. Writes metrics.json, samples.png, reconstructions.png."""

from pathlib import Path

from PIL import Image
from torch import Tensor

from naruto_add.diffusion.bundle import (
    ModelBundle,
    decode_latents,
    encode_prompts,
    load_pipeline_folder,
)
from naruto_add.diffusion.sampling import Sampler, initial_noise, sample_latents
from naruto_add.evaluation.features import extract_features, load_feature_network
from naruto_add.evaluation.frechet import frechet_distance
from naruto_add.imaging.grid import GridColumn, GridRow, make_grid, to_images
from naruto_add.imaging.pixels import to_uint8
from naruto_add.runtime.compute import default_device
from naruto_add.runtime.files import write_json
from recipe.artifacts import MODEL, section
from recipe.copies import copies, mean_psnr, shinobi_pixels
from recipe.pictures import first_pictures

CELL_PX = 128
FAMILIES = ("comic", "villager", "avatar")


def check(
    *, seed: int, pictures_seed: int, num_pictures: int, num_copies: int, num_steps: int, guidance_scale: float
) -> None:
    """Draw captions that were not trained on, and measure the autoencoder's copies of people and of shinobi."""
    bundle = load_pipeline_folder(MODEL, precision="fp32")
    bundle.to(default_device())
    size_px = bundle.vae.config.sample_size
    people, captions = first_pictures(FAMILIES, num_copies, seed=pictures_seed, size_px=size_px)
    sampler = Sampler(bundle.scheduler, num_steps, guidance_scale)
    drawn = _draw(bundle, captions[:num_pictures], sampler, seed)
    pairs = zip(drawn, to_images(people[:num_pictures]), strict=True)
    rows = [GridRow(caption, pair) for caption, pair in zip(captions, pairs, strict=False)]
    _save(rows, [GridColumn("drawn", f"{num_steps} steps"), GridColumn("real", "test picture")], Path("samples.png"))
    originals = {"people": people, "shinobi": shinobi_pixels(num_copies, size_px=size_px)}
    copied = {name: copies(bundle.vae, pixels.to(bundle.device)).cpu() for name, pixels in originals.items()}
    write_json(Path("metrics.json"), copy_figures(originals, copied))
    rows = [
        GridRow(name, pair)
        for name in originals
        for pair in zip(*(to_images(part[name][: num_pictures // 4]) for part in (originals, copied)), strict=True)
    ]
    _save(rows, [GridColumn("original", ""), GridColumn("copy", "")], Path("reconstructions.png"))


def copy_figures(originals: dict[str, Tensor], copied: dict[str, Tensor]) -> dict[str, float]:
    """PSNR in dB and Frechet distance, by EfficientNet-Lite1, of pictures (N, 3, height, width) and their copies."""
    network = load_feature_network("embedded", default_device())
    figures = {}
    for name, pixels in originals.items():
        features = [extract_features(to_uint8(part), network) for part in (copied[name], pixels)]
        figures[f"psnr_{name}"] = mean_psnr(copied[name], pixels)
        figures[f"{network.frechet_name}_{name}"] = frechet_distance(*features)
    return figures


def _draw(bundle: ModelBundle, prompts: list[str], sampler: Sampler, seed: int) -> list[Image.Image]:
    latents = sample_latents(
        bundle.unet,
        noise=initial_noise(bundle, len(prompts), seed=seed),
        prompt_embeds=encode_prompts(bundle, prompts),
        negative_embeds=encode_prompts(bundle, [""]),
        sampler=sampler,
    )
    return to_images(decode_latents(bundle, latents))


def _save(rows: list[GridRow], columns: list[GridColumn], path: Path) -> None:
    make_grid(rows, columns=columns, cell_px=CELL_PX, path=path, metadata={})


if __name__ == "__main__":
    check(**section("check"))
