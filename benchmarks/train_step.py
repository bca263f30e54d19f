"""Where the time of an ADD step goes: `python benchmarks/train_step.py`.

The mini profile, with random weights of the base model's size. Prints the time of every part, and the ratio of the
whole step to the forward and backward passes that the algorithm cannot avoid, each timed alone on inputs that are
ready. Without a GPU it is the processor's time that counts, which other programs do not change.
"""

import argparse
import statistics
import time
from collections.abc import Callable, Mapping
from pathlib import Path

import torch
from diffusers import AutoencoderKL, PNDMScheduler, UNet2DConditionModel
from torch import Tensor
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

from naruto_add.compute import default_device
from naruto_add.diffusion.bundle import ModelBundle
from naruto_add.losses.adversarial import discriminator_hinge, r1_penalty
from naruto_add.models.student import shrink_unet
from naruto_add.params import Params, load_params
from naruto_add.training.add.critics import Critics, Features
from naruto_add.training.add.inputs import AddData, Batch, Pairs, Pictures, draw_batch
from naruto_add.training.add.run import AddRun

ROOT = Path(__file__).parents[1]
NUM_PAIRS, NUM_TOKENS, TEXT_WIDTH = 480, 77, 128


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=int, default=9, help="of each part, of which the median is printed")
    repeats = parser.parse_args().repeats
    params = load_params(ROOT / "profiles/mini.yaml")
    run = make_run(params)
    step = params.add.adv_start_steps + params.add.adv_ramp_steps  # all losses are on
    batch = draw_batch(run.data, run.params, step=step).part(slice(None), run.bundle.device)
    passes, rest = needed_passes(run, batch), other_parts(run, step)
    times = medians({**passes, **rest, "the whole step": lambda: run.train_step(step)}, repeats)
    whole = times["the whole step"]
    for name, value in times.items():
        print(f"{1000 * value:9.1f} ms  {100 * value / whole:5.1f} %  {name}")
    ratio = whole / sum(times[name] for name in passes)
    print(f"{ratio:9.3f}  of the passes that cannot be avoided, which are the first {len(passes)}")


def needed_passes(run: AddRun, batch: Batch) -> dict[str, Callable[[], object]]:
    """What a step must compute, without all that leads up to it."""
    student, teacher, critics, params = run.student, run.bundle.unet, run.critics, run.params
    chosen = batch.part(torch.where(batch.renoised_weight > 0)[0])
    judged = batch.part(torch.where(batch.judged_weight > 0)[0])
    with torch.no_grad():
        features = critics.features(judged.x0, judged.prompt_embeds, judged)

    def forward(unet: UNet2DConditionModel, part: Batch) -> Tensor:
        return unet(part.noise, part.renoised_timesteps, part.prompt_embeds, return_dict=False)[0]

    @torch.no_grad()
    def roll_out() -> None:
        for index in range(len(params.timesteps) - 1):
            forward(student, batch.part(torch.where(batch.is_rollout & (batch.step_index > index))[0]))

    @torch.no_grad()
    def guide() -> None:
        forward(teacher, chosen), forward(teacher, chosen)

    def learn() -> None:
        forward(student, batch).sum().backward()
        student.zero_grad()

    def judge_fakes() -> None:
        x0 = judged.x0.clone().requires_grad_()
        maps = critics.features(x0, judged.prompt_embeds, judged)
        torch.autograd.grad(sum(item.sum() for item in logits_of(critics, maps, judged.pooled)), x0)

    @torch.no_grad()
    def see_reals() -> None:
        critics.features(judged.real_latents, judged.real_prompt_embeds, judged)

    def train_heads() -> None:
        inputs = {name: [item.clone().requires_grad_() for item in maps] for name, maps in features.items()}
        real, fake = (logits_of(critics, *each) for each in ((inputs, judged.real_pooled), (features, judged.pooled)))
        hinge = sum(discriminator_hinge(*pair) for pair in zip(real, fake, strict=True))
        flat = [item for maps in inputs.values() for item in maps]
        (hinge + sum(r1_penalty(*pair) for pair in zip(real, flat, strict=True))).backward()
        critics.heads.zero_grad()

    return {
        "student: forward and backward": learn,
        "student: roll-outs, without gradient": roll_out,
        "discriminators: forward and backward of the fakes": judge_fakes,
        "discriminators' frozen networks: forward of the reals": see_reals,
        **({"teacher: guided step": guide} if len(chosen.noise) else {}),
        "heads: forward and backward, with the gradient penalty": train_heads,
    }


def logits_of(critics: Critics, maps: Features, pooled: Tensor) -> list[Tensor]:
    """Of every head of every discriminator."""
    return [item for items in critics.judge(maps, pooled).values() for item in items]


def other_parts(run: AddRun, step: int) -> dict[str, Callable[[], object]]:
    """What a step does besides."""
    for module in (run.student, run.critics.heads):
        for item in module.parameters():
            item.grad = torch.zeros_like(item)

    def optimize(learner_name: str) -> Callable[[], object]:
        learner = getattr(run, learner_name)

        def update() -> None:
            for item in learner.trainable:
                item.grad = torch.zeros_like(item) if item.grad is None else item.grad
            learner.step()

        return update

    return {
        "drawing the batch": lambda: draw_batch(run.data, run.params, step=step),
        "student: clipping, AdamW, average": optimize("learner"),
        "heads: clipping, AdamW": optimize("judge"),
    }


def medians(parts: Mapping[str, Callable[[], object]], repeats: int) -> dict[str, float]:
    """The median of the seconds that each part takes, all in turn, after a round that is not counted."""
    times: dict[str, list[float]] = {name: [] for name in parts}
    for _ in range(repeats + 1):
        for name, part in parts.items():
            started = now()
            part()
            times[name].append(now() - started)
    return {name: statistics.median(values[1:]) for name, values in times.items()}


def now() -> float:
    """Seconds, when all that was asked for is done."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()
        return time.perf_counter()
    return time.process_time()


def make_run(params: Params) -> AddRun:
    """A run on random teacher samples."""
    torch.manual_seed(0)
    bundle = make_bundle()
    student = shrink_unet(bundle.unet, params.student.architecture).to(bundle.device)
    noise = torch.randn(2, NUM_PAIRS, *bundle.latent_shape)
    states = torch.randn(NUM_PAIRS, len(params.add.timesteps) - 1, *bundle.latent_shape)
    pairs = Pairs(noise[0], states, noise[1], torch.arange(NUM_PAIRS))
    none = Pictures(noise[0, :0], torch.arange(0))
    data = AddData(
        train=pairs,
        further=(),
        held_out=pairs,
        pictures=none,
        unseen=none,
        prompts=[""] * NUM_PAIRS,
        prompt_embeds=torch.randn(NUM_PAIRS, NUM_TOKENS, TEXT_WIDTH),
        pooled=torch.randn(NUM_PAIRS, TEXT_WIDTH),
    )
    return AddRun(
        bundle,
        student,
        data=data,
        params=params.add,
        guidance_scale=params.sampling.guidance_scale,
        student_scheduler=params.sampling.student_scheduler,
        precision=params.base.precision,
    )


def make_bundle() -> ModelBundle:
    """The base model's architecture (base/recipe/denoiser.py) with random weights; a step needs U-Net and scheduler."""
    tokenizer = CLIPTokenizer.from_pretrained(ROOT / "base/model/tokenizer")
    unet = UNet2DConditionModel(
        sample_size=8,
        in_channels=16,
        out_channels=16,
        down_block_types=("CrossAttnDownBlock2D", "CrossAttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D", "CrossAttnUpBlock2D"),
        block_out_channels=(64, 128, 128),
        layers_per_block=2,
        attention_head_dim=4,
        cross_attention_dim=TEXT_WIDTH,
        norm_num_groups=4,
    )
    text = CLIPTextConfig(
        vocab_size=len(tokenizer),
        hidden_size=TEXT_WIDTH,
        num_hidden_layers=1,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
    )
    bundle = ModelBundle(
        tokenizer=tokenizer,
        text_encoder=CLIPTextModel(text),
        vae=AutoencoderKL.from_pretrained(ROOT / "base/model/vae"),
        unet=unet,
        scheduler=PNDMScheduler(beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear"),
    )
    for module in (bundle.text_encoder, bundle.vae, bundle.unet):
        module.requires_grad_(False).eval()
    return bundle.to(default_device())


if __name__ == "__main__":
    main()
