"""The teacher: the base model finetuned by LoRA on the data set, chosen by its validation loss, merged."""

import textwrap
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float, Int
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor, nn
from torchvision.transforms.functional import resize, to_pil_image

from naruto_add.compute import batch_indices, make_accelerator, step_generator
from naruto_add.data.dataset import Example, load_split
from naruto_add.data.latents import CachedLatents, cached_embeddings, cached_latents, unique_prompts
from naruto_add.data.prompts import fill_template
from naruto_add.diffusion.bundle import (
    ModelBundle,
    decode_latents,
    encode_pixels,
    encode_prompts,
    load_bundle,
    save_bundle,
    tokenize,
)
from naruto_add.diffusion.noise import add_noise, alphas_cumprod, snr
from naruto_add.diffusion.sampling import fast_sampler, initial_noise, noise_pred, sample_latents
from naruto_add.files import new_file, new_folder, write_json
from naruto_add.losses.denoising import min_snr_loss
from naruto_add.models.lora import add_lora, merge_lora, save_lora
from naruto_add.params import NUM_TRAIN_TIMESTEPS, Base, Sampling, Teacher
from naruto_add.training.loop import (
    Best,
    Ema,
    FiniteGuard,
    Scalars,
    Stateful,
    TrainableState,
    run_steps,
    warmup_schedule,
)

VALIDATION_TIMESTEPS = (100, 300, 500, 700, 900)
VALIDATION_STREAM = 1
PICTURE_STEPS = 12
CELL_PX = 128
LABEL_PX = 40


def train_teacher(
    dataset_dir: Path,
    params: Teacher,
    *,
    base: Base,
    sampling: Sampling,
    out_dir: Path,
    lora_dir: Path,
    checkpoint_dir: Path,
    curves_path: Path,
    metrics_path: Path,
    validation_grid_path: Path,
) -> None:
    """Write the merged pipeline, the adapters alone, curves, figures and a grid of validation pictures.

    `checkpoint_dir` must belong to this configuration alone: it holds caches and what a killed run resumes from.
    """
    # In half precision the base weights would round away much of what is merged into them; autocast saves the time.
    bundle = load_bundle(base.model_copy(update={"precision": "fp32"}))
    data = load_data(bundle, params, dataset_dir=dataset_dir, cache_dir=checkpoint_dir)
    run = TeacherRun(bundle, data, params=params, base=base, sampling=sampling)

    def validate(num_done: int) -> Scalars:
        scalars = run.validate(num_done)
        run.pictures.write(validation_grid_path)
        return scalars

    run_steps(
        run.train_step,
        name="teacher",
        num_steps=params.num_steps,
        state=run.state(),
        validate=validate,
        validation_every_steps=params.validation_every_steps,
        checkpoint_dir=checkpoint_dir,
        curves_path=curves_path,
    )
    run.best.copy_to(run.denoiser)
    _save(bundle, run.denoiser, out_dir=out_dir, lora_dir=lora_dir)
    write_json(metrics_path, run.metrics())
    run.pictures.write(validation_grid_path)


@dataclass(frozen=True)
class TeacherData:
    """Latents of two splits, and every prompt's embedding, or its token ids where the text encoder is trained."""

    train: CachedLatents
    train_rows: Int[Tensor, " train"]
    validation: CachedLatents
    validation_rows: Int[Tensor, " validation"]
    picture_rows: Int[Tensor, " pictures"]
    prompts: Float[Tensor, "prompts tokens width"] | Int[Tensor, "prompts tokens"]
    """Rows are what the others' `_rows` count; row 0 is the empty prompt."""


@dataclass(frozen=True)
class Batch:
    """What one training step sees, on the CPU."""

    latents: Float[Tensor, "batch c h w"]
    noise: Float[Tensor, "batch c h w"]
    timesteps: Int[Tensor, " batch"]
    prompts: Float[Tensor, "batch tokens width"] | Int[Tensor, "batch tokens"]


class Denoiser(nn.Module):
    """The U-Net, with the text encoder where that is trained too."""

    def __init__(self, unet: nn.Module, text_encoder: nn.Module | None) -> None:
        super().__init__()
        self.unet = unet
        self.text_encoder = text_encoder

    def forward(self, noisy_latents: Tensor, timesteps: Tensor, prompts: Tensor) -> Float[Tensor, "batch c h w"]:
        """Epsilon, fp32."""
        return noise_pred(self.unet, noisy_latents, timesteps, self.embed(prompts))

    def embed(self, prompts: Tensor) -> Float[Tensor, "batch tokens width"]:
        """Embeddings as they are; token ids through the text encoder."""
        if self.text_encoder is None:
            return prompts
        return self.text_encoder(prompts).last_hidden_state.float()


def load_data(bundle: ModelBundle, params: Teacher, *, dataset_dir: Path, cache_dir: Path) -> TeacherData:
    """Both splits, encoded by the untrained bundle; the encodings are kept in `cache_dir`."""
    train = load_split(dataset_dir, "train")
    validation = load_split(dataset_dir, "validation")
    train_prompts = _prompts(params, [example.caption for example in train])
    validation_prompts = _prompts(params, [example.caption for example in validation])
    picture_prompts = _prompts(params, params.validation_prompts)
    unique = unique_prompts([*train_prompts, *validation_prompts, *picture_prompts])
    row_of = {prompt: row for row, prompt in enumerate(unique)}

    def rows(prompts: list[str]) -> Tensor:
        return torch.tensor([row_of[prompt] for prompt in prompts])

    return TeacherData(
        train=_latents(bundle, train, flip=params.flip, cache_path=cache_dir / "latents_train.safetensors"),
        train_rows=rows(train_prompts),
        validation=_latents(bundle, validation, flip=False, cache_path=cache_dir / "latents_validation.safetensors"),
        validation_rows=rows(validation_prompts),
        picture_rows=rows(picture_prompts),
        prompts=_prompt_table(bundle, params, unique, cache_path=cache_dir / "prompts.safetensors"),
    )


def draw_batch(data: TeacherData, params: Teacher, *, step: int) -> Batch:
    """The batch of this step, a function of its arguments: pictures, mirrors, dropped captions, noise and timesteps."""
    items = torch.tensor(batch_indices(len(data.train.latents), params.batch_size, seed=params.seed, step=step))
    generator = step_generator(params.seed, step)
    noise = torch.randn(len(items), *data.train.latents.shape[1:], generator=generator)
    timesteps = torch.randint(NUM_TRAIN_TIMESTEPS, (len(items),), generator=generator)
    dropped = torch.rand(len(items), generator=generator) < params.caption_dropout
    mirrored = torch.rand(len(items), generator=generator) < 0.5
    latents = data.train.latents[items]
    if params.flip:
        latents = torch.where(mirrored.view(-1, 1, 1, 1), data.train.flipped[items], latents)
    rows = data.train_rows[items].masked_fill(dropped, 0)
    return Batch(latents, noise, timesteps, data.prompts[rows])


def denoising_loss(
    denoiser: Denoiser, batch: Batch, *, alpha_bar: Float[Tensor, " timesteps"], snr_gamma: float
) -> Float[Tensor, ""]:
    """The min-SNR-weighted squared error of epsilon on this batch, on the denoiser's device."""
    device = alpha_bar.device
    timesteps = batch.timesteps.to(device)
    noise = batch.noise.to(device)
    noisy_latents = add_noise(batch.latents.to(device), noise, timesteps, alphas_cumprod=alpha_bar)
    prediction = denoiser(noisy_latents, timesteps, batch.prompts.to(device))
    return min_snr_loss(prediction, noise, snr(timesteps, alphas_cumprod=alpha_bar), snr_gamma=snr_gamma)


def validation_batches(data: TeacherData, *, batch_size: int, seed: int) -> list[Batch]:
    """Every validation picture at every one of VALIDATION_TIMESTEPS, with noise that depends on the seed alone."""
    num_timesteps = len(VALIDATION_TIMESTEPS)
    latents = data.validation.latents.repeat(num_timesteps, 1, 1, 1)
    noise = torch.randn(latents.shape, generator=step_generator(seed, 0, VALIDATION_STREAM))
    timesteps = torch.tensor(VALIDATION_TIMESTEPS).repeat_interleave(len(data.validation.latents))
    rows = data.validation_rows.repeat(num_timesteps)
    parts = zip(*(item.split(batch_size) for item in (latents, noise, timesteps, rows)), strict=True)
    return [Batch(latents, noise, timesteps, data.prompts[rows]) for latents, noise, timesteps, rows in parts]


class TeacherRun:
    """A finetuning in progress: adapters, their average, the optimizer, the best weights and the pictures so far."""

    def __init__(
        self, bundle: ModelBundle, data: TeacherData, *, params: Teacher, base: Base, sampling: Sampling
    ) -> None:
        text_encoder = bundle.text_encoder if params.lora_text_encoder else None
        self.num_layers = add_lora(
            bundle.unet,
            text_encoder,
            targets=params.lora_targets,
            rank=params.lora_rank,
            alpha=params.lora_alpha,
            seed=params.seed,
        )
        self.denoiser = Denoiser(bundle.unet, text_encoder)
        self.trainable = [item for item in self.denoiser.parameters() if item.requires_grad]
        self.best = Best()
        self.pictures = ValidationPictures(params.validation_prompts)
        self._base_loss = _Value()
        self._bundle = bundle
        self._data = data
        self._params = params
        self._sampling = sampling
        self._alpha_bar = alphas_cumprod(bundle.scheduler).to(bundle.device)
        self._validation = validation_batches(data, batch_size=params.batch_size, seed=params.seed)
        self._accelerator = make_accelerator(base.precision)
        optimizer = torch.optim.AdamW(self.trainable, lr=params.learning_rate)
        self._schedule = warmup_schedule(optimizer, params.warmup_steps)
        self._optimizer: Any = self._accelerator.prepare(optimizer)
        self._ema = Ema(self.denoiser, params.ema_decay)
        self._guard = FiniteGuard("lower teacher.learning_rate, or set base.precision to bf16 or fp32")

    def state(self) -> dict[str, Stateful]:
        """All that a checkpoint must hold."""
        state: dict[str, Stateful] = {
            "lora": TrainableState(self.denoiser),
            "ema": self._ema,
            "optimizer": self._optimizer,
            "schedule": self._schedule,
            "guard": self._guard,
            "best": self.best,
            "base_loss": self._base_loss,
            "pictures": self.pictures,
        }
        scaler = self._accelerator.scaler
        return state if scaler is None else {**state, "scaler": scaler}

    def train_step(self, step: int) -> Scalars:
        """One optimizer step on the batch that belongs to `step`, skipped if its gradient is not finite."""
        self._optimizer.zero_grad()
        with self._accelerator.autocast():
            loss = self._loss(draw_batch(self._data, self._params, step=step))
        self._accelerator.backward(loss)
        grad_norm = self._accelerator.clip_grad_norm_(self.trainable, self._params.max_grad_norm)
        # The scaler of fp16 skips such a step by itself, and must see it to lower its scale.
        if self._guard.allows(grad_norm) or self._accelerator.scaler is not None:
            self._optimizer.step()
        self._schedule.step()
        self._ema.update()
        return {"loss": loss.item(), "grad_norm": float(grad_norm)}

    def validate(self, num_done: int) -> Scalars:
        """Score and draw with the averaged weights, and keep them if they are the best trained so far."""
        with self._ema.applied():
            loss = self.validation_loss()
            self.pictures.add(num_done, self._draw())
        if num_done == 0:
            self._base_loss.value = loss
        else:
            self.best.offer(loss, num_done, self._ema.average())
        return {"validation_loss": loss}

    @torch.no_grad()
    def validation_loss(self) -> float:
        """The loss of the present weights over `validation_batches`."""
        with self._accelerator.autocast():
            losses = [self._loss(batch).item() * len(batch.latents) for batch in self._validation]
        return sum(losses) / sum(len(batch.latents) for batch in self._validation)

    def metrics(self) -> dict[str, float | int]:
        """Figures of the finished run."""
        return {
            "adapted_layers": self.num_layers,
            "trainable_parameters": sum(item.numel() for item in self.trainable),
            "base_validation_loss": self._base_loss.value,
            "best_validation_loss": self.best.score,
            "best_step": self.best.step,
            "skipped_steps": self._guard.num_skipped,
        }

    def _loss(self, batch: Batch) -> Tensor:
        return denoising_loss(self.denoiser, batch, alpha_bar=self._alpha_bar, snr_gamma=self._params.snr_gamma)

    @torch.no_grad()
    def _draw(self) -> Float[Tensor, "pictures 3 height width"]:
        device = self._bundle.device
        rows = self._data.picture_rows
        with self._accelerator.autocast():
            prompt_embeds = self.denoiser.embed(self._data.prompts[rows].to(device))
            negative_embeds = self.denoiser.embed(self._data.prompts[:1].to(device))
            latents = sample_latents(
                self._bundle.unet,
                noise=initial_noise(self._bundle, len(rows), seed=self._params.seed),
                prompt_embeds=prompt_embeds,
                negative_embeds=negative_embeds,
                sampler=fast_sampler(self._bundle, PICTURE_STEPS, self._sampling.guidance_scale),
            )
        return decode_latents(self._bundle, latents).cpu()


class ValidationPictures:
    """A grid that grows by one row at every validation: a column per prompt, the same noise in every row."""

    def __init__(self, prompts: list[str]) -> None:
        self._prompts = prompts
        self._rows: list[Tensor] = []
        self._steps: list[int] = []

    def add(self, step: int, pixels: Float[Tensor, "pictures 3 height width"]) -> None:
        """Add what the model draws after `step` steps."""
        small = resize(pixels, [CELL_PX, CELL_PX], antialias=True).clamp(-1, 1)
        self._rows.append(((small + 1) * 127.5).round().to(torch.uint8))
        self._steps.append(step)

    def write(self, path: Path) -> None:
        """Write the grid as a PNG."""
        size = (CELL_PX * (len(self._prompts) + 1), LABEL_PX + CELL_PX * len(self._rows))
        grid = Image.new("RGB", size, "white")
        draw = ImageDraw.Draw(grid)
        font = ImageFont.load_default(size=11)
        for column, prompt in enumerate(self._prompts, start=1):
            draw.multiline_text((CELL_PX * column + 3, 3), textwrap.fill(prompt, 22), fill="black", font=font)
        for row, (step, pictures) in enumerate(zip(self._steps, self._rows, strict=True)):
            top = LABEL_PX + CELL_PX * row
            draw.text((3, top + 3), f"step {step}" if step else "base", fill="black", font=font)
            for column, picture in enumerate(pictures, start=1):
                grid.paste(to_pil_image(picture), (CELL_PX * column, top))
        with new_file(path) as partial:
            grid.save(partial)

    def state_dict(self) -> dict[str, Any]:
        """The rows so far."""
        return {"rows": self._rows, "steps": self._steps}

    def load_state_dict(self, state_dict: dict[str, Any], /) -> None:
        """Restore them."""
        self._rows, self._steps = state_dict["rows"], state_dict["steps"]


@dataclass
class _Value:
    value: float = float("nan")

    def state_dict(self) -> dict[str, float]:
        return {"value": self.value}

    def load_state_dict(self, state_dict: dict[str, float], /) -> None:
        self.value = state_dict["value"]


def _prompts(params: Teacher, captions: list[str]) -> list[str]:
    return [fill_template(params.prompt_template, caption) for caption in captions]


def _latents(bundle: ModelBundle, examples: list[Example], *, flip: bool, cache_path: Path) -> CachedLatents:
    return cached_latents(
        examples, flip=flip, vae=bundle.vae, encode=lambda pixels: encode_pixels(bundle, pixels), cache_path=cache_path
    )


def _prompt_table(bundle: ModelBundle, params: Teacher, unique: list[str], *, cache_path: Path) -> Tensor:
    if params.lora_text_encoder:
        return tokenize(bundle, unique)
    return cached_embeddings(
        unique,
        text_encoder=bundle.text_encoder,
        encode=lambda prompts: encode_prompts(bundle, prompts),
        cache_path=cache_path,
    )


def _save(bundle: ModelBundle, denoiser: Denoiser, *, out_dir: Path, lora_dir: Path) -> None:
    text_encoder = None if denoiser.text_encoder is None else bundle.text_encoder
    with new_folder(lora_dir) as folder:
        save_lora(folder, unet=bundle.unet, text_encoder=text_encoder)
    merge_lora(denoiser)
    with new_folder(out_dir) as folder:
        save_bundle(bundle, folder)
