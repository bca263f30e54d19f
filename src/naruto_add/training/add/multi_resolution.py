"""Multi-scale training: teacher samples of other picture sizes; each training step uses one size.

Every size has its own samples: a resized x0 is not the teacher's sample of a resized noise.
"""

from pathlib import Path

from naruto_add.config.schema import Add
from naruto_add.diffusion.bundle import ModelBundle
from naruto_add.training.add.dataset import AddData, Pairs, pairs_of
from naruto_add.training.draw_pool import TeacherSampler, latent_shape, noise_of_shape
from naruto_add.training.settings import DistillationSettings


def sample_other_sizes(
    bundle: ModelBundle,
    data: AddData,
    *,
    prompts: list[str],
    params: Add,
    settings: DistillationSettings,
    pool_cache_dir: Path,
) -> tuple[Pairs, ...]:
    """`add.resolution_pool_size` teacher samples of these prompts of `data` for each of `add.resolutions_px`.

    All processes must call this together. Samples are cached in `pool_cache_dir`, like those of the pool. Raises
    StageError for a size that the networks cannot process.
    """
    shapes = [latent_shape(bundle, each, key="add.resolutions_px") for each in params.resolutions_px]
    row_of = {prompt: row for row, prompt in enumerate(data.prompts)}
    teacher = TeacherSampler(
        bundle,
        num_steps=settings.pool_steps,
        timesteps=settings.student_timesteps,
        guidance_scale=settings.guidance_scale,
        seed=params.seed,
        cache_dir=pool_cache_dir,
    )
    pools = [
        teacher.draw(noise_of_shape(shape, params.resolution_pool_size, seed=params.seed), prompts) for shape in shapes
    ]
    return tuple(pairs_of(pool, row_of) for pool in pools)
