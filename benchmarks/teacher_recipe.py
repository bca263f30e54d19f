"""The teacher's training speed against diffusers' LoRA recipe, in one run: `python -m benchmarks.teacher_recipe`.

The recipe is a loop in the manner of diffusers' example for text-to-image LoRA: every step encodes its pictures by the
autoencoder and its captions by the text encoder. Adapters, loss, optimizer and batch are those of the teacher, which
reads latents and embeddings that were computed once. Reading picture files, which the recipe does in every epoch, is
not timed. Weights are random, at Stable Diffusion 1.5's shape; without a GPU, the widths of all networks are divided by
8, which leaves their proportions about as they are. The last line is the ratio of operations at full width.
"""

import argparse
import copy
from collections.abc import Callable
from functools import partial
from itertools import islice
from pathlib import Path

import torch
from diffusers import AutoencoderKL, DDPMScheduler, PNDMScheduler, UNet2DConditionModel
from diffusers.training_utils import cast_training_params, compute_snr
from peft import LoraConfig
from ruamel.yaml import YAML
from torch import Tensor
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

from benchmarks.timing import Round, device_name, median, median_seconds, time_rounds
from naruto_add.config.load import parse_params
from naruto_add.config.profiles import compose_profile
from naruto_add.config.schema import Params
from naruto_add.data.alternatives import PromptRows
from naruto_add.data.latents import CachedLatents
from naruto_add.diffusion.bundle import ModelBundle
from naruto_add.diffusion.fp32_head import keep_head_in_fp32
from naruto_add.diffusion.single_file import SD_SCHEDULE
from naruto_add.diffusion.token_chunks import CHUNK_LENGTH
from naruto_add.estimate.fake import measuring
from naruto_add.estimate.networks import SD15_UNET, SD15_VAE, Shapes, new_text_encoder
from naruto_add.estimate.teacher import teacher_tasks
from naruto_add.runtime.compute import default_device, frozen_dtype, gpu_layout, make_accelerator
from naruto_add.training.learner import MAX_GRAD_NORM
from naruto_add.training.teacher.dataset import Bucket, TeacherData
from naruto_add.training.teacher.trainer import TeacherTrainer

ROOT = Path(__file__).parents[1]
NUM_PICTURES = 977
"""Training pictures of profile sd15: 80 % of the data set's 1,221."""
SD15_BATCH = 8
"""Pictures of a step in profile sd15, whatever the batch that is timed."""
NUM_GROUPS, TEXT_WIDTH = 32, 768


def main() -> None:
    """Print the table."""
    on_gpu = torch.cuda.is_available()
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=int, default=5, help="rounds; every call is timed once in each")
    parser.add_argument("--resolution", type=int, default=512 if on_gpu else 256)
    parser.add_argument("--batch", type=int, default=8 if on_gpu else 2, help="pictures of a step")
    parser.add_argument("--divide", type=int, default=1 if on_gpu else 8, help="what all widths are divided by")
    parser.add_argument("--operations", action="store_true", help="only the ratio of operations; nothing is timed")
    options = parser.parse_args()
    params = profile(options.resolution, options.batch)
    if options.operations:
        print(ratio_of_operations(params))
        return
    calls = make_calls(params, divide=options.divide)
    rounds = time_rounds(calls, options.repeats)
    print(f"{device_name()}, widths / {options.divide}, {options.resolution} px, batch {options.batch}, per picture")
    for name, value in median_seconds(rounds).items():
        print(f"{name:<34}{1000 * value / options.batch:10.1f} ms{options.batch / value:10.2f} pictures/s")
    by_step, by_run = median(rounds, step_ratio), median(rounds, partial(whole_run, params))
    print(f"{by_step:.2f} times the recipe's training speed")
    print(f"{by_run:.2f} times over the whole training of sd15, with the time to fill the caches")
    print(ratio_of_operations(params))


def profile(resolution_px: int, batch_size: int) -> Params:
    """The profile sd15 at this size, with this batch."""
    values = YAML(typ="safe").load(compose_profile("sd15", root=ROOT))
    values["base"] |= {"resolution_px": resolution_px}
    values["teacher"] |= {"batch_size": batch_size}
    return parse_params(values)


def step_ratio(costs: Round) -> float:
    """The cost of the recipe's step, divided by that of the teacher's."""
    return costs["recipe"] / costs["teacher"]


def whole_run(params: Params, costs: Round) -> float:
    """The recipe's cost of all of sd15's pictures of all steps, divided by the teacher's, which fills caches first."""
    num_drawn = params.teacher.num_steps * SD15_BATCH
    caches = NUM_PICTURES * ((1 + params.teacher.flip) * costs["autoencoder"] + costs["text encoder"])
    return num_drawn * costs["recipe"] / (num_drawn * costs["teacher"] + caches)


def ratio_of_operations(params: Params) -> str:
    """The last line."""
    flops = operations(params)
    return (
        f"by operations at full width and {params.base.resolution_px} px: {step_ratio(flops):.2f} times, and "
        f"{whole_run(params, flops):.2f} times over the whole training"
    )


def make_calls(params: Params, *, divide: int) -> dict[str, Callable[[], object]]:
    """The timed calls by name: a step of each loop, and what only the recipe's steps do."""
    torch.manual_seed(0)
    bundle = make_bundle(params.base.resolution_px, divide)
    recipe = Recipe(copy.deepcopy(bundle), params)
    trainer = make_trainer(bundle, params)
    step = params.teacher.optimizer.warmup_steps
    return {
        "recipe": recipe.step,
        "teacher": lambda: trainer.train_step(step),
        "autoencoder": recipe.latents,
        "text encoder": recipe.embeds,
    }


def make_bundle(resolution_px: int, divide: int) -> ModelBundle:
    """Networks with SD 1.5's structure and random weights, on the device."""
    groups, text_width = max(1, NUM_GROUPS // divide), TEXT_WIDTH // divide
    tokenizer = CLIPTokenizer.from_pretrained(ROOT / "base/model/tokenizer")
    unet, vae = (
        {**config, "block_out_channels": tuple(width // divide for width in config["block_out_channels"])}
        for config in (SD15_UNET, SD15_VAE)
    )
    unet |= {"cross_attention_dim": text_width, "norm_num_groups": groups, "sample_size": resolution_px // 8}
    text = CLIPTextConfig(
        vocab_size=len(tokenizer),
        hidden_size=text_width,
        intermediate_size=4 * text_width,
        num_hidden_layers=12,
        num_attention_heads=12,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    bundle = ModelBundle(
        tokenizer=tokenizer,
        text_encoder=CLIPTextModel(text),
        vae=AutoencoderKL(**vae, norm_num_groups=groups),
        unet=UNet2DConditionModel(**unet),
        scheduler=PNDMScheduler(**SD_SCHEDULE),
    )
    for network in bundle.networks:
        network.requires_grad_(False).eval()
    return bundle.to(default_device())


def make_trainer(bundle: ModelBundle, params: Params) -> TeacherTrainer:
    """This project's trainer, on random latents and embeddings."""
    keep_head_in_fp32(gpu_layout(bundle.unet))
    latents = torch.randn(NUM_PICTURES, *bundle.latent_shape)
    rows = PromptRows(torch.arange(NUM_PICTURES)[:, None], torch.ones(NUM_PICTURES, dtype=torch.long))
    few = CachedLatents(latents=latents[:1], flipped=latents[:0])
    data = TeacherData(
        train=(Bucket(CachedLatents(latents=latents, flipped=latents.flip(-1)), rows),),
        validation=(Bucket(few, PromptRows(rows.rows[:1], rows.counts[:1])),),
        drawn_rows=torch.arange(1),
        prompts=torch.randn(NUM_PICTURES, CHUNK_LENGTH, bundle.unet.config.cross_attention_dim),
    )
    return TeacherTrainer(
        bundle,
        data,
        params=params.teacher,
        autocast=params.base.autocast,
        guidance_scale=params.sampling.guidance_scale,
    )


class Recipe:
    """The loop of diffusers' example: frozen networks in the dtype of autocast, adapters in fp32, no caches."""

    def __init__(self, bundle: ModelBundle, params: Params) -> None:
        """Add adapters to the attention layers of the bundle's U-Net."""
        teacher, device = params.teacher, bundle.device
        self.bundle, self.snr_gamma = bundle, teacher.snr_gamma
        self.accelerator = make_accelerator(params.base.autocast)
        self.dtype = frozen_dtype(params.base.autocast)
        for network in bundle.networks:
            network.to(self.dtype)
        attention = ["to_k", "to_q", "to_v", "to_out.0"]
        rank = teacher.lora_rank
        bundle.unet.add_adapter(
            LoraConfig(r=rank, lora_alpha=rank, init_lora_weights="gaussian", target_modules=attention)
        )
        cast_training_params(bundle.unet, dtype=torch.float32)
        self.trainable = [weight for weight in bundle.unet.parameters() if weight.requires_grad]
        optimizer = torch.optim.AdamW(self.trainable, lr=teacher.optimizer.learning_rate, weight_decay=0.0)
        schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda _: 1.0)
        self.unet, self.optimizer, self.schedule = self.accelerator.prepare(bundle.unet, optimizer, schedule)
        self.scheduler = DDPMScheduler(**{name: SD_SCHEDULE[name] for name in SD_SCHEDULE if name.startswith("beta")})
        size, side = teacher.batch_size, params.base.resolution_px
        self.pixels = torch.rand(size, 3, side, side, device=device) * 2 - 1
        self.ids = torch.randint(len(bundle.tokenizer), (size, CHUNK_LENGTH), device=device)

    def latents(self) -> Tensor:
        """Latents of the batch, drawn from the autoencoder's posterior."""
        with torch.no_grad():
            posterior = self.bundle.vae.encode(self.pixels.to(self.dtype)).latent_dist
        scaled: Tensor = posterior.sample() * self.bundle.vae.config.scaling_factor
        return scaled

    def embeds(self) -> Tensor:
        """Embeddings of the batch's captions."""
        with torch.no_grad():
            embeds: Tensor = self.bundle.text_encoder(self.ids)[0]
        return embeds

    def step(self) -> float:
        """One optimizer step; returns the loss, which the example logs."""
        latents = self.latents()
        noise = torch.randn_like(latents)
        timesteps = torch.randint(self.scheduler.config.num_train_timesteps, (len(latents),), device=latents.device)
        noisy_latents = self.scheduler.add_noise(latents, noise, timesteps)
        prediction = self.unet(noisy_latents, timesteps, self.embeds()).sample
        snr = compute_snr(self.scheduler, timesteps)
        error = (prediction.float() - noise.float()).square().flatten(1).mean(dim=1)
        loss = (error * snr.clamp(max=self.snr_gamma) / snr).mean()
        self.accelerator.backward(loss)
        self.accelerator.clip_grad_norm_(self.trainable, MAX_GRAD_NORM)
        self.optimizer.step()
        self.schedule.step()
        self.optimizer.zero_grad()
        return loss.item()


@torch.no_grad()
def operations(params: Params) -> dict[str, float]:
    """Operations of a picture at SD 1.5's own widths, by the names of `make_calls`."""
    shapes = Shapes(SD15_UNET, SD15_VAE, params.base.resolution_px // 8, is_assumed=True)
    with torch.enable_grad():
        encode, train = islice(teacher_tasks(params, shapes, 1), 2)
    with measuring() as meter:
        new_text_encoder(shapes, torch.float32)(torch.zeros(1, CHUNK_LENGTH, dtype=torch.long))
    teacher = train.flops / params.teacher.num_steps / params.teacher.batch_size
    autoencoder = encode.flops / (1 + params.teacher.flip)
    parts = {"teacher": teacher, "autoencoder": autoencoder, "text encoder": meter.flops}
    return {"recipe": sum(parts.values()), **parts}


if __name__ == "__main__":
    main()
