"""The finetuning of the teacher: one training step, one validation, and all state of both."""

from dataclasses import dataclass
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor, nn

from naruto_add.config.schema import Precision, Teacher
from naruto_add.diffusion.bundle import ModelBundle, decode_latents, embed_tokens
from naruto_add.diffusion.noise import add_noise, alphas_cumprod, snr
from naruto_add.diffusion.placement import move_to_cpu
from naruto_add.diffusion.sampling import dpm_solver_sampler, initial_noise, noise_pred, sample_latents
from naruto_add.losses.denoising import min_snr_loss
from naruto_add.models.lora import add_lora
from naruto_add.runtime.compute import make_accelerator
from naruto_add.runtime.sharing import compute_across_processes
from naruto_add.training.checkpoint import Stateful
from naruto_add.training.curves import Scalars
from naruto_add.training.learner import Learner
from naruto_add.training.processes import local_parts, means
from naruto_add.training.teacher.batch import Batch, draw_batch, validation_batches
from naruto_add.training.teacher.dataset import TeacherData
from naruto_add.training.validation_grid import ValidationGrid
from naruto_add.training.weights import Best, Ema

DRAWING_STEPS = 12
"""DPM-Solver++ steps of the pictures in the validation grid."""


class Denoiser(nn.Module):
    """The U-Net, and the text encoder if it is trained too."""

    def __init__(self, unet: nn.Module, text_encoder: nn.Module | None, *, num_chunks: int) -> None:
        """`num_chunks` is the number of chunks in the token ids of a prompt."""
        super().__init__()
        self._num_chunks = num_chunks
        self.unet = unet
        self.text_encoder = text_encoder

    def forward(self, noisy_latents: Tensor, timesteps: Tensor, prompts: Tensor) -> Float[Tensor, "batch c h w"]:
        """Epsilon, fp32; `prompts` are token ids if there is a text encoder, else embeddings."""
        return noise_pred(self.unet, noisy_latents, timesteps, self.embed(prompts))

    def embed(self, prompts: Tensor) -> Float[Tensor, "batch tokens width"]:
        """The embeddings, fp32, of token ids if there is a text encoder; else `prompts`, which are embeddings."""
        if self.text_encoder is None:
            return prompts
        return embed_tokens(self.text_encoder, prompts, self._num_chunks)


class TeacherTrainer:
    """Adapters on the bundle's networks, their average, the optimizer, the best weights, and the validation grid."""

    def __init__(
        self,
        bundle: ModelBundle,
        data: TeacherData,
        *,
        params: Teacher,
        autocast: Precision,
        guidance_scale: float,
    ) -> None:
        """Add adapters to the bundle's networks.

        Raises StageError if they fit no layer, or if the batch cannot be divided into equal parts.
        """
        text_encoder = bundle.text_encoder if params.lora_text_encoder else None
        self.num_layers = add_lora(
            bundle.unet,
            text_encoder,
            targets=params.lora_targets,
            rank=params.lora_rank,
            seed=params.seed,
            start_path=Path(params.lora_start) if params.lora_start else None,
        )
        self.denoiser = Denoiser(bundle.unet, text_encoder, num_chunks=bundle.caption_chunks)
        move_to_cpu(*([bundle.vae] if text_encoder else [bundle.vae, bundle.text_encoder]))
        if params.gradient_checkpointing:
            bundle.unet.enable_gradient_checkpointing()
        self.best = Best()
        self.grid = ValidationGrid(params.validation_prompts)
        self._base_loss = _Value()
        self._bundle = bundle
        self._data = data
        self._params = params
        self._guidance_scale = guidance_scale
        self._alpha_bar = alphas_cumprod(bundle.scheduler).to(bundle.device)
        self._validation = validation_batches(data, batch_size=params.batch_size, seed=params.seed)
        self._parts = local_parts("teacher", batch_size=params.batch_size, accumulation_steps=params.accumulation_steps)
        self._accelerator = make_accelerator(autocast)
        self._ema = Ema(self.denoiser, params.optimizer.ema_decay, on_cpu=params.optimizer.ema_on_cpu)
        self.learner = Learner(
            self.denoiser,
            self._accelerator,
            section="teacher",
            optimizer=params.optimizer,
            learning_rate=params.optimizer.learning_rate,
            num_steps=params.num_steps,
            accumulation_steps=params.accumulation_steps,
            ema=self._ema,
            advice="lower teacher.optimizer.learning_rate, or set base.autocast to bf16 or fp32",
        )

    def state(self) -> dict[str, Stateful]:
        """Everything that a checkpoint has to store."""
        return {"lora": self.learner, "best": self.best, "base_loss": self._base_loss, "grid": self.grid}

    def train_step(self, step: int) -> Scalars:
        """One optimizer step on the batch of `step`, skipped if the gradient is not finite."""
        batch = draw_batch(self._data, self._params, step=step)
        losses = []
        for part in self._parts:
            with self._accelerator.autocast():
                loss = self._loss(batch.part(part, self._bundle.device))
            self.learner.backward(loss)
            losses.append({"loss": loss})
        return {**means(losses), "grad_norm": self.learner.step()}

    def validate(self, num_done: int) -> Scalars:
        """Validate the averaged weights, draw with them, and keep them if they are the best; the base is never kept."""
        with self._ema.applied():
            loss = self.validation_loss()
            self.grid.add(f"step {num_done}" if num_done else "base", self._draw())
        if num_done == 0:
            self._base_loss.value = loss
        else:
            self.best.offer(loss, num_done, self._ema.average())
        return {"validation_loss": loss}

    def validation_loss(self) -> float:
        """The mean loss of the current weights over all `validation_batches`."""

        @torch.no_grad()
        def summed_loss(batch: Batch) -> float:
            with self._accelerator.autocast():
                return self._loss(batch).item() * len(batch.latents)

        sums = compute_across_processes(self._validation, summed_loss)
        return float(sum(sums) / sum(len(batch.latents) for batch in self._validation))

    def metrics(self) -> dict[str, float | int]:
        """Metrics of the finished training."""
        return {
            "adapted_layers": self.num_layers,
            "trainable_parameters": self.learner.num_weights,
            "start_validation_loss": self._base_loss.value,
            "best_validation_loss": self.best.score,
            "best_step": self.best.step,
            "skipped_steps": self.learner.guard.num_skipped,
        }

    def _loss(self, batch: Batch) -> Tensor:
        return denoising_loss(self.denoiser, batch, alpha_bar=self._alpha_bar, snr_gamma=self._params.snr_gamma)

    @torch.no_grad()
    def _draw(self) -> Float[Tensor, "prompts 3 height width"]:
        device = self._bundle.device
        rows = self._data.drawn_rows
        with self._accelerator.autocast():
            prompt_embeds = self.denoiser.embed(self._data.prompts[rows].to(device))
            negative_embeds = self.denoiser.embed(self._data.prompts[:1].to(device))
            latents = sample_latents(
                self._bundle.unet,
                noise=initial_noise(self._bundle, len(rows), seed=self._params.seed),
                prompt_embeds=prompt_embeds,
                negative_embeds=negative_embeds,
                sampler=dpm_solver_sampler(self._bundle, DRAWING_STEPS, self._guidance_scale),
            )
        return decode_latents(self._bundle, latents).cpu()


def denoising_loss(
    denoiser: Denoiser, batch: Batch, *, alpha_bar: Float[Tensor, " timesteps"], snr_gamma: float
) -> Float[Tensor, ""]:
    """The min-SNR-weighted squared error of epsilon on this batch, computed on the device of `alpha_bar`."""
    device = alpha_bar.device
    timesteps = batch.timesteps.to(device)
    noise = batch.noise.to(device)
    noisy_latents = add_noise(batch.latents.to(device), noise, timesteps, alphas_cumprod=alpha_bar)
    prediction = denoiser(noisy_latents, timesteps, batch.prompts.to(device))
    return min_snr_loss(prediction, noise, snr(timesteps, alphas_cumprod=alpha_bar), snr_gamma=snr_gamma)


@dataclass
class _Value:
    """A number that a checkpoint stores."""

    value: float = float("nan")

    def state_dict(self) -> dict[str, float]:
        return {"value": self.value}

    def load_state_dict(self, state_dict: dict[str, float], /) -> None:
        self.value = state_dict["value"]
