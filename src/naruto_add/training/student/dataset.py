"""The data of the student's warm-up: pool samples, their prompts, the teacher, and the student's sampler."""

from dataclasses import dataclass
from pathlib import Path

from jaxtyping import Float
from torch import Tensor

from naruto_add.config.constants import NUM_TRAIN_TIMESTEPS
from naruto_add.data.latents import cached_embeddings
from naruto_add.diffusion.bundle import ModelBundle, encode_prompts
from naruto_add.diffusion.noise import alphas_cumprod
from naruto_add.diffusion.sampling import Sampler, make_student_scheduler
from naruto_add.runtime.sharing import main_first
from naruto_add.training.pool import Pool


@dataclass(frozen=True, kw_only=True)
class WarmupData:
    """Pool samples, the frozen teacher that they come from, and the timesteps that the student will sample at."""

    bundle: ModelBundle
    pool: Pool
    prompt_embeds: Float[Tensor, "prompts tokens width"]
    """Embeddings of `pool.prompts`, on the CPU."""
    negative_embeds: Float[Tensor, "1 tokens width"]
    guidance_scale: float
    sampler: Sampler
    """DDIM at `timesteps`: scores compare samples from the same noise, which a sampler that adds noise would lose."""
    timesteps: list[int]
    """The student's, noisiest first."""

    @property
    def stride(self) -> int:
        """Timesteps between two of the student's."""
        return NUM_TRAIN_TIMESTEPS // len(self.timesteps)

    @property
    def alphas_cumprod(self) -> Float[Tensor, " timesteps"]:
        """alpha_bar of the teacher's schedule."""
        return alphas_cumprod(self.bundle.scheduler)


def load_warmup_data(
    bundle: ModelBundle,
    pool: Pool,
    *,
    guidance_scale: float,
    timesteps: list[int],
    cache_dir: Path,
) -> WarmupData:
    """The data for these pool samples; embeddings of prompts are cached in `cache_dir`."""
    with main_first():
        prompt_embeds = cached_embeddings(
            pool.prompts,
            text_encoder=bundle.text_encoder,
            encode=lambda prompts: encode_prompts(bundle, prompts),
            cache_dir=cache_dir / "prompts",
        )
    scheduler = make_student_scheduler(bundle.scheduler, "ddim", len(timesteps))
    return WarmupData(
        bundle=bundle,
        pool=pool,
        prompt_embeds=prompt_embeds,
        negative_embeds=encode_prompts(bundle, [""]),
        guidance_scale=guidance_scale,
        sampler=Sampler(scheduler, len(timesteps), guidance_scale=1.0),
        timesteps=timesteps,
    )
