"""Runs that start alike on a random tiny pipeline, their parameters, and how their states are compared."""

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from naruto_add.diffusion.bundle import ModelBundle, load_unet
from naruto_add.params import Add, Params, StudentScheduler, load_params
from naruto_add.training.add.image_text import ImageText
from naruto_add.training.add.inputs import AddData, Batch, load_data
from naruto_add.training.add.run import AddRun
from naruto_add.training.pool import load_pool

TEMPLATE = "ninja style, {caption}"
PROFILE: Params = load_params(Path(__file__).parents[3] / "profiles/mini.yaml")
SMALL = {
    "discriminators": ["latent"],
    "judged_fraction": 1.0,
    "renoised_weight": 0.5,
    "num_steps": 4,
    "learning_rate_decay": "none",
    "batch_size": 6,
    "discriminator_width": 8,
    "adv_start_steps": 0,
    "adv_ramp_steps": 0,
    "warmup_steps": 0,
    "validation_every_steps": 2,
}

ALL_ON = {
    "judged_fraction": 0.5,
    "discriminators": ["latent", "pixel"],
    "pixel_crop_px": 32,
    "pair_target": "solve",
    "solve_steps": 2,
    "renoised_space": "pixel",
    "renoised_crop_px": 32,
    "misaligned_weight": 0.5,
    "perceptual_weight": 0.5,
    "perceptual_crop_px": 32,
    "augment": "adaptive",
    "augment_flip": True,
    "timestep_probabilities": [[0.0, 0.0, 0.5, 0.5], [0.4, 0.2, 0.2, 0.2]],
}


def add_params(**values: Any) -> Add:
    return Add.model_validate({**PROFILE.add.model_dump(), **SMALL, **values})


class Build:
    """Makes runs that start alike."""

    def __init__(
        self, bundle: ModelBundle, *, student_dir: Path, pool_path: Path, dataset_dir: Path, tmp: Path
    ) -> None:
        self.bundle, self.student_dir, self.pool_path, self.dataset_dir = bundle, student_dir, pool_path, dataset_dir
        self.tmp = tmp

    def data(self, params: Add) -> AddData:
        return load_data(
            self.bundle,
            load_pool(self.pool_path),
            params=params,
            prompt_template=TEMPLATE,
            dataset_dir=self.dataset_dir,
            cache_dir=self.tmp / params.real_source,
        )

    def run(
        self,
        params: Add,
        *,
        scheduler: StudentScheduler = "ddim",
        data: AddData | None = None,
        image_text: ImageText | None = None,
    ) -> AddRun:
        student = load_unet(self.student_dir, precision="fp32").requires_grad_(True)
        return AddRun(
            self.bundle,
            student,
            data=data or self.data(params),
            params=params,
            guidance_scale=PROFILE.sampling.guidance_scale,
            student_scheduler=scheduler,
            precision="fp32",
            image_text=image_text,
        )


def weights(module: torch.nn.Module) -> dict[str, Tensor]:
    return {name: item.detach().clone() for name, item in module.state_dict().items()}


def same(one: Any, other: Any) -> bool:
    """Bit for bit, in nested state dicts."""
    if isinstance(one, Tensor):
        return torch.equal(one, other)
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(same(one[key], other[key]) for key in one)
    if isinstance(one, list | tuple):
        return len(one) == len(other) and all(same(*pair) for pair in zip(one, other, strict=True))
    return bool(one == other)


def no_gradient(module: torch.nn.Module) -> bool:
    return all(item.grad is None for item in module.parameters())


def x0_of(run: AddRun, batch: Batch) -> Tensor:
    return run.distiller.x0_of(run.distiller.student_inputs(batch), batch)
