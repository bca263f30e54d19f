"""The time of each part of an ADD step: `python -m benchmarks.train_step`.

Uses the values of profile mini, with the embedded base model as the teacher and random samples. Prints the time of each
part, and the ratio of the whole step to the forward and backward passes that the algorithm requires, each timed alone
on ready inputs. Without a GPU, times are the process's CPU time, which does not depend on other programs.
"""

import argparse
from collections.abc import Callable
from pathlib import Path

import torch
from diffusers import UNet2DConditionModel
from ruamel.yaml import YAML
from torch import Tensor

from benchmarks.timing import Round, median, median_seconds, time_rounds
from naruto_add.config.load import parse_params
from naruto_add.config.profiles import compose_profile
from naruto_add.config.schema import Params
from naruto_add.data.alternatives import PromptRows
from naruto_add.diffusion.bundle import load_bundle
from naruto_add.losses.adversarial import discriminator_hinge, r1_penalty
from naruto_add.models.student import shrink_unet
from naruto_add.runtime.compute import default_device
from naruto_add.training.add.adversarial import AdversarialTrainer
from naruto_add.training.add.batch import Batch, draw_batch
from naruto_add.training.add.dataset import AddData, Pairs, RealLatents
from naruto_add.training.add.discriminators import Discriminators, Features
from naruto_add.training.learner import Learner
from naruto_add.training.settings import DistillationSettings

ROOT = Path(__file__).parents[1]
NUM_PAIRS, NUM_TOKENS = 480, 77


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=int, default=9, help="rounds; every part is timed once in each")
    repeats = parser.parse_args().repeats
    params = profile()
    trainer = make_trainer(params)
    step = params.add.adv_start_steps + params.add.adv_ramp_steps  # the first with all losses at full weight
    batch = draw_batch(trainer.data, trainer.params, step=step).part(slice(None), trainer.bundle.device)
    passes, rest = required_passes(trainer, batch), other_parts(trainer, step)
    rounds = time_rounds({**passes, **rest, "the whole step": lambda: trainer.train_step(step)}, repeats)
    times = median_seconds(rounds)
    for name, value in times.items():
        print(f"{1000 * value:9.1f} ms  {100 * value / times['the whole step']:5.1f} %  {name}")

    def over_passes(seconds: Round) -> float:
        return seconds["the whole step"] / sum(seconds[name] for name in passes)

    print(
        f"{median(rounds, over_passes):9.3f}  times as long as the required passes, which are the first {len(passes)}"
    )


def profile() -> Params:
    """Profile mini, with the embedded base model's absolute path."""
    params = parse_params(YAML(typ="safe").load(compose_profile("mini", root=ROOT)))
    base = params.base.model_copy(update={"model": str(ROOT / params.base.model)})
    return params.model_copy(update={"base": base})


def required_passes(trainer: AdversarialTrainer, batch: Batch) -> dict[str, Callable[[], object]]:
    """The forward and backward passes that a step requires, on inputs that are ready."""
    student, teacher, discriminators = trainer.student, trainer.bundle.unet, trainer.discriminators
    renoised = batch.part(torch.where(batch.renoised_weight > 0)[0])
    shown = batch.part(torch.where(batch.discriminator_weight > 0)[0])
    with torch.no_grad():
        features = discriminators.features(shown.x0, shown.prompt_embeds, shown)

    def forward(unet: UNet2DConditionModel, part: Batch) -> Tensor:
        return unet(part.noise, part.renoised_timesteps, part.prompt_embeds, return_dict=False)[0]

    @torch.no_grad()
    def roll_out() -> None:
        for index in range(batch.states.shape[1]):
            forward(student, batch.part(torch.where(batch.is_rollout & (batch.step_index > index))[0]))

    @torch.no_grad()
    def call_teacher() -> None:
        forward(teacher, renoised), forward(teacher, renoised)

    def train_student() -> None:
        forward(student, batch).sum().backward()
        student.zero_grad()

    def discriminate_fakes() -> None:
        x0 = shown.x0.clone().requires_grad_()
        maps = discriminators.features(x0, shown.prompt_embeds, shown)
        logits = all_logits(discriminators, maps, shown.pooled)
        torch.autograd.grad(torch.stack([item.sum() for item in logits]).sum(), x0)

    @torch.no_grad()
    def compute_real_features() -> None:
        discriminators.features(shown.real_latents, shown.real_prompt_embeds, shown)

    def train_heads() -> None:
        inputs = {name: [item.clone().requires_grad_() for item in maps] for name, maps in features.items()}
        real = all_logits(discriminators, inputs, shown.real_pooled)
        fake = all_logits(discriminators, features, shown.pooled)
        flat = [item for maps in inputs.values() for item in maps]
        hinges = [discriminator_hinge(*pair) for pair in zip(real, fake, strict=True)]
        penalties = [r1_penalty(*pair) for pair in zip(real, flat, strict=True)]
        torch.stack([*hinges, *penalties]).sum().backward()
        discriminators.heads.zero_grad()

    return {
        "student: forward and backward": train_student,
        "student: rollouts, without gradient": roll_out,
        "discriminators: forward and backward of generated latents": discriminate_fakes,
        "discriminators' frozen networks: forward of real latents": compute_real_features,
        **({"teacher: guided prediction": call_teacher} if len(renoised.noise) else {}),
        "heads: forward and backward, with the gradient penalty": train_heads,
    }


def all_logits(discriminators: Discriminators, features: Features, pooled: Tensor) -> list[Tensor]:
    """The logits of every head of every discriminator."""
    return [item for items in discriminators.logits(features, pooled).values() for item in items]


def other_parts(trainer: AdversarialTrainer, step: int) -> dict[str, Callable[[], object]]:
    """The parts of a step that are not passes through networks."""

    def update(learner: Learner) -> None:
        for item in learner.trainable:
            item.grad = torch.zeros_like(item) if item.grad is None else item.grad
        learner.step()

    return {
        "drawing the batch": lambda: draw_batch(trainer.data, trainer.params, step=step),
        "student: clipping, Muon, average": lambda: update(trainer.learner),
        "heads: clipping, AdamW": lambda: update(trainer.discriminator_learner),
    }


def make_trainer(params: Params) -> AdversarialTrainer:
    """A trainer with random teacher samples as data."""
    torch.manual_seed(0)
    bundle = load_bundle(params.base).to(default_device())
    student = shrink_unet(bundle.unet, params.student.architecture).to(bundle.device)
    timesteps = params.sampling.student_timesteps
    text_width = bundle.unet.config.cross_attention_dim
    noise = torch.randn(2, NUM_PAIRS, *bundle.latent_shape)
    states = torch.randn(NUM_PAIRS, len(timesteps) - 1, *bundle.latent_shape)
    rows = torch.arange(NUM_PAIRS)
    pairs = Pairs(noise[0], states, noise[1], rows)
    data = AddData(
        train=pairs,
        held_out=pairs,
        other_sizes=(),
        real=RealLatents(
            noise[0], PromptRows(torch.arange(NUM_PAIRS)[:, None], torch.ones(NUM_PAIRS, dtype=torch.long))
        ),
        real_pixels=torch.zeros(2, 3, params.base.resolution_px, params.base.resolution_px),
        prompts=[""] * NUM_PAIRS,
        prompt_embeds=torch.randn(NUM_PAIRS, NUM_TOKENS, text_width),
        pooled=torch.randn(NUM_PAIRS, text_width),
    )
    return AdversarialTrainer(
        bundle,
        student,
        data=data,
        params=params.add,
        settings=DistillationSettings(
            guidance_scale=params.sampling.guidance_scale,
            pool_steps=params.sampling.pool_steps,
            student_timesteps=timesteps,
            prompt_template=params.base.prompt_template,
            caption_chunks=1,
            frozen_precision=params.base.frozen_precision,
            autocast=params.base.autocast,
        ),
        student_scheduler=params.sampling.student_scheduler,
    )


if __name__ == "__main__":
    main()
