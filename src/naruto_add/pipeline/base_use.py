"""Whether all stages can use the base model with these parameters."""

from collections.abc import Callable
from functools import partial

from naruto_add.config.schema import Params
from naruto_add.diffusion.base_model import (
    base_configs,
    check_base_model,
    check_block_names,
    check_removable,
    check_scheduler,
    latent_side,
    latent_size,
)
from naruto_add.runtime.errors import StageError


def check_base_use(params: Params) -> None:
    """Raises StageError if the base model is missing or unpinned, or if a stage could not use its networks or schedule.

    All problems of the parameters are in one message. Of a hub repository only configuration files are downloaded. If
    the hub refuses them, the error says why; if it cannot be reached, only the name and the revision are checked.
    """
    base = params.base
    check_base_model(base.model, revision=base.revision, variant=base.variant, resolution_px=base.resolution_px)
    configs = base_configs(base.model, base.revision)
    if configs is None:
        return
    vae, unet = configs["vae"], configs["unet"]
    check_scheduler(configs["scheduler"], base.model)
    latent_side(vae, unet, resolution_px=base.resolution_px)
    checks: list[Callable[[], object]] = [
        *(partial(latent_size, vae, unet, size, key="add.resolutions_px") for size in params.add.resolutions_px),
        partial(check_removable, unet, params.student.architecture),
        *(partial(check_block_names, unet, [name]) for name in params.add.discriminator_blocks),
    ]
    problems = [problem_of(check) for check in checks]
    if any(problems):
        raise StageError("\n".join(filter(None, problems)))


def problem_of(check: Callable[[], object]) -> str | None:
    """What the check finds, and the remedy; None if all is well."""
    try:
        check()
    except StageError as error:
        return str(error)
    return None
