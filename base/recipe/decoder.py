"""Train the decoder for latents that the denoiser predicts: `python -m recipe.decoder` in base/.

The autoencoder's decoder has only seen latents of real pictures. Latents that a denoiser samples differ from these a
little, and pictures decoded from them are soft and patchy. Here the decoder learns to draw the original picture from
the denoiser's one-step prediction of slightly noised latents. The encoder does not change, so neither do the latents,
nor any U-Net that is trained on them.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from diffusers import AutoencoderKL, DDPMScheduler, UNet2DConditionModel
from diffusers.training_utils import EMAModel
from torch import Tensor, nn
from transformers import CLIPTextModel, CLIPTokenizer

from naruto_add.diffusion.bundle import forget_paths
from naruto_add.diffusion.noise import x0_from_noise_pred
from naruto_add.runtime.cache import hash_state
from naruto_add.runtime.compute import default_device, step_generator
from naruto_add.runtime.files import content_hash
from recipe.artifacts import AUTOENCODER, CHECKPOINTS, DECODER, DENOISER, MODEL, section
from recipe.copies import copies, mean_psnr, validation_pixels
from recipe.pictures import VALIDATION_SEED, Batch, Pictures, first_pictures, training_batches
from recipe.resume import Curve, fast_passes, load_checkpoint, save_checkpoint, trapezoid
from recipe.sharpness import Sharpness
from recipe.updates import averaged_weights, convolution_optimizer, update

SAVE_EVERY_STEPS = 100
CURVE_EVERY_STEPS = 500
NUM_CURVE_PICTURES = 64


@dataclass(frozen=True)
class Recipe:
    """The section `decoder` of params.yaml, which says what each value means."""

    seed: int
    pictures_seed: int
    families: list[str]
    max_timestep: int
    clean_share: float
    num_steps: int
    warmup_steps: int
    decay_steps: int
    batch_size: int
    learning_rate: float
    perceptual_weight: float
    adversarial_weight: float
    discriminator_learning_rate: float
    ema_decay: float


def train_decoder(out_dir: Path, recipe: Recipe) -> None:
    """Save the fp16 AutoencoderKL with the trained decoder and the encoder as it was, and the learning curve."""
    torch.manual_seed(recipe.seed)
    run = _Run(recipe, default_device())
    checkpoint = CHECKPOINTS / "decoder.pt"
    first_step = load_checkpoint(checkpoint, run)
    for step, batch in _steps(recipe, first_step, run):
        if step % CURVE_EVERY_STEPS == 0:
            run.measure(step)
        run.train_step(batch, step)
        if (step + 1) % SAVE_EVERY_STEPS == 0:
            save_checkpoint(checkpoint, run, step + 1)
    run.measure(recipe.num_steps)
    run.ema.copy_to(run.decoder.parameters())
    run.vae.half().save_pretrained(out_dir / "vae")
    forget_paths(out_dir)
    run.curve.save(out_dir / "curve.tsv")
    checkpoint.unlink(missing_ok=True)


def _steps(recipe: Recipe, first_step: int, run: "_Run") -> Iterator[tuple[int, Batch]]:
    return training_batches(
        Pictures(recipe.families, seed=recipe.pictures_seed, size_px=run.vae.config.sample_size),
        range(recipe.num_steps),
        first_step=first_step,
        batch_size=recipe.batch_size,
        device=run.device,
        name="decoder",
    )


class _Run:
    """The autoencoder, of which the decoder is trained, the frozen denoiser, and a training step."""

    def __init__(self, recipe: Recipe, device: torch.device) -> None:
        self.recipe, self.device = recipe, device
        self.tokenizer = CLIPTokenizer.from_pretrained(MODEL / "tokenizer")
        self.text_encoder = CLIPTextModel.from_pretrained(DENOISER / "text_encoder", torch_dtype=torch.float32)
        self.unet = UNet2DConditionModel.from_pretrained(DENOISER / "unet", torch_dtype=torch.float32)
        self.noise_scheduler = DDPMScheduler.from_pretrained(DENOISER / "scheduler")
        self.vae = AutoencoderKL.from_pretrained(AUTOENCODER / "vae", torch_dtype=torch.float32)
        for frozen in (self.text_encoder, self.unet, self.vae):
            frozen.requires_grad_(False).to(device)
        self.vae.to(memory_format=torch.channels_last)
        # The convolution between the latents and the decoder is trained too, because only the decoder uses it. In this
        # list its name is not that of an outer layer, so Muon trains it; in the autoencoder's training AdamW does.
        self.decoder = nn.ModuleList([self.vae.post_quant_conv, self.vae.decoder]).requires_grad_(True)
        self.sharpness = Sharpness(
            perceptual_weight=recipe.perceptual_weight,
            adversarial_weight=recipe.adversarial_weight,
            learning_rate=recipe.discriminator_learning_rate,
            device=device,
        )
        self.optimizer = convolution_optimizer(self.decoder, recipe.learning_rate)
        self.ema = EMAModel(self.decoder.parameters(), decay=recipe.ema_decay, foreach=True)
        self.factor = trapezoid(recipe.num_steps, warmup_steps=recipe.warmup_steps, decay_steps=recipe.decay_steps)
        self.curve = Curve(CHECKPOINTS / "decoder.tsv")
        self.frozen = {
            "autoencoder": hash_state(self.vae.state_dict()),
            "unet": hash_state(self.unet.state_dict()),
            "text_encoder": hash_state(self.text_encoder.state_dict()),
            "tokenizer": content_hash(MODEL / "tokenizer"),
        }
        self._choose_curve_pictures()

    def state(self) -> dict[str, Any]:
        """What a checkpoint holds."""
        own = {"decoder": self.decoder, "ema": self.ema, "curve": self.curve, "optimizer": self.optimizer}
        return own | self.sharpness.state()

    def inputs(self) -> dict[str, Any]:
        """The recipe, and hashes of what the training starts from."""
        return {**vars(self.recipe), **self.frozen}

    def train_step(self, batch: Batch, step: int) -> None:
        """One update of the decoder, its average, and the discriminator."""
        pixels, captions = batch
        generator = step_generator(self.recipe.seed, step)
        timesteps = torch.randint(self.recipe.max_timestep + 1, (len(pixels),), generator=generator)
        is_clean = torch.rand(len(pixels), generator=generator) < self.recipe.clean_share
        latents = self._encode(pixels)
        predicted = self._predict(latents, captions, timesteps, generator)
        drawn = self._decode(torch.where(is_clean.to(self.device)[:, None, None, None], latents, predicted))
        loss = F.l1_loss(drawn, pixels) + F.mse_loss(drawn, pixels) + self.sharpness.loss(pixels, drawn)
        factor = self.factor(step)
        update(self.decoder, loss, self.optimizer, learning_rate=self.recipe.learning_rate * factor)
        self.ema.step(self.decoder.parameters())
        self.sharpness.train_discriminator(pixels, drawn, factor=factor)

    @torch.no_grad()
    def measure(self, step: int) -> None:
        """Append a row to the learning curve: figures of the averaged weights on pictures that are not trained on.

        These are the PSNR in dB of copies, by kind of picture, and the perceptual distance of the original pictures to
        those decoded from predicted latents, with timesteps at equal distances from 0 to `max_timestep`.
        """
        parts = zip(self.curve_latents.split(16), self.curve_originals.split(16), strict=True)
        with averaged_weights(self.ema, self.decoder):
            copied = {name: copies(self.vae, pixels) for name, pixels in self.curve_pixels.items()}
            distances = [self.sharpness.distances(pixels, self._decode(latents)) for latents, pixels in parts]
        figures = {f"psnr_{name}": mean_psnr(copied[name], pixels) for name, pixels in self.curve_pixels.items()}
        figures["distance_predicted"] = float(torch.cat(distances).mean())
        self.curve.append({"step": step, "pictures": step * self.recipe.batch_size, **figures})

    def _choose_curve_pictures(self) -> None:
        recipe, size_px = self.recipe, self.vae.config.sample_size
        seed = recipe.pictures_seed
        pixels = validation_pixels(recipe.families, NUM_CURVE_PICTURES, seed=seed, size_px=size_px)
        self.curve_pixels = {name: each.to(self.device) for name, each in pixels.items()}
        drawn, captions = first_pictures(
            recipe.families, NUM_CURVE_PICTURES, seed=seed + VALIDATION_SEED, size_px=size_px
        )
        self.curve_originals = drawn.to(self.device, memory_format=torch.channels_last)
        timesteps = torch.linspace(0, recipe.max_timestep, NUM_CURVE_PICTURES).long()
        latents = self._encode(self.curve_originals)
        self.curve_latents = self._predict(latents, captions, timesteps, step_generator(recipe.seed, 0))

    @torch.no_grad()
    def _encode(self, pixels: Tensor) -> Tensor:
        """Latents of pixels: the posterior's means, as the denoiser was trained on; the autoencoder's scale is 1."""
        with fast_passes(self.device):
            return self.vae.encode(pixels).latent_dist.mean.float()

    @torch.no_grad()
    def _predict(self, latents: Tensor, captions: list[str], timesteps: Tensor, generator: torch.Generator) -> Tensor:
        """The denoiser's one-step prediction of latents (N, C, h, w) to which the noise of the timesteps is added."""
        timesteps = timesteps.to(self.device)
        noise = torch.randn(latents.shape, generator=generator).to(self.device)
        noisy_latents = self.noise_scheduler.add_noise(latents, noise, timesteps)
        tokens = self.tokenizer(captions, padding="max_length", truncation=True, return_tensors="pt")
        with fast_passes(self.device):
            prompt_embeds = self.text_encoder(tokens.input_ids.to(self.device)).last_hidden_state
            noise_pred = self.unet(noisy_latents, timesteps, prompt_embeds).sample
        alphas_cumprod = self.noise_scheduler.alphas_cumprod.to(self.device)
        return x0_from_noise_pred(noisy_latents, noise_pred, timesteps, alphas_cumprod=alphas_cumprod)

    def _decode(self, latents: Tensor) -> Tensor:
        with fast_passes(self.device):
            drawn: Tensor = self.vae.decode(latents).sample
        return drawn.float()


if __name__ == "__main__":
    train_decoder(DECODER, Recipe(**section("decoder")))
