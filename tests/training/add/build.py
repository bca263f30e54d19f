"""Trainers on a random tiny pipeline, their parameters, and comparisons of their states."""

import copy
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from diffusers import UNet2DConditionModel
from torch import Tensor

from naruto_add.config.schema import Add, Optimizer, StudentScheduler
from naruto_add.diffusion.bundle import ModelBundle
from naruto_add.training.add.adversarial import AdversarialTrainer
from naruto_add.training.add.batch import Batch
from naruto_add.training.add.consistency import ConsistencyTrainer
from naruto_add.training.add.dataset import AddData, load_data
from naruto_add.training.add.image_text import ImageText
from naruto_add.training.loop import TrainingRun, run_steps
from naruto_add.training.pool import load_pool
from naruto_add.training.settings import DistillationSettings
from tests.mini_profile import mini_params

MINI = mini_params()
TEMPLATE = "ninja style, {caption}"
GUIDANCE_SCALE = 3.0
NUM_REAL = 4
SCORE_PX = 56
"""A quarter of the side at which the validation score looks at pictures: its network costs the most."""
TIMESTEPS = [999, 749, 499, 249]
SETTINGS = DistillationSettings(
    guidance_scale=GUIDANCE_SCALE,
    pool_steps=4,
    student_timesteps=TIMESTEPS,
    prompt_template=TEMPLATE,
    caption_chunks=1,
    frozen_precision="fp32",
    autocast="fp32",
)
SMALL: dict[str, Any] = {
    "num_steps": 4,
    "batch_size": 6,
    "warmup_steps": 0,
    "schedule": "constant",
    "renoised_weight": 0.5,
    "adv_start_steps": 0,
    "adv_ramp_steps": 0,
    "discriminators": ["latent"],
    "discriminator_fraction": 1.0,
    "crop_px": 32,
    "validation_every_steps": 2,
}
ALL_LOSSES: dict[str, Any] = {
    "discriminators": ["latent", "pixel"],
    "discriminator_fraction": 0.5,
    "perceptual_weight": 0.5,
    "augment_strength": 0.5,
}
"""All optional parts of the step but the image-text loss."""


def add_params(**values: Any) -> Add:
    """The parameters of profile mini with SMALL and these values; keys of `add.optimizer` are given without it."""
    values = {**SMALL, **values}
    optimizer = {name: values.pop(name) for name in Optimizer.model_fields if name in values}
    section = MINI.add.model_dump()
    return Add.model_validate({**section, **values, "optimizer": {**section["optimizer"], **optimizer}})


class Build:
    """Builds data and trainers, all of which start from the same weights."""

    def __init__(
        self,
        bundle: ModelBundle,
        *,
        student: UNet2DConditionModel,
        student_dir: Path,
        pool_path: Path,
        dataset_dir: Path,
        tmp: Path,
    ) -> None:
        """`student_dir` contains the weights of `student`, which trainers copy."""
        self.bundle, self.student_dir, self.pool_path, self.dataset_dir = bundle, student_dir, pool_path, dataset_dir
        self.tmp, self._loaded_student = tmp, student

    def data(self, params: Add) -> AddData:
        """With few real pictures for the validation score, whose network is what costs most in these tests."""
        data = load_data(
            self.bundle,
            load_pool(self.pool_path),
            params=params,
            prompt_template=TEMPLATE,
            dataset_dir=self.dataset_dir,
            cache_dir=self.tmp / params.real_source,
        )
        return replace(data, real_pixels=data.real_pixels[:NUM_REAL])

    def trainer(
        self,
        params: Add,
        *,
        scheduler: StudentScheduler = "ddim",
        data: AddData | None = None,
        image_text: ImageText | None = None,
    ) -> AdversarialTrainer:
        trainer = AdversarialTrainer(
            self.bundle,
            self._student(),
            data=data or self.data(params),
            params=params,
            settings=SETTINGS,
            student_scheduler=scheduler,
            image_text=image_text,
        )
        trainer.validation_score.input_px = SCORE_PX
        return trainer

    def consistency_trainer(
        self, params: Add, *, scheduler: StudentScheduler = "lcm", data: AddData | None = None
    ) -> ConsistencyTrainer:
        trainer = ConsistencyTrainer(
            self.bundle,
            self._student(),
            data=data or self.data(params),
            params=params,
            settings=SETTINGS,
            student_scheduler=scheduler,
        )
        trainer.validation_score.input_px = SCORE_PX
        return trainer

    def _student(self) -> Any:
        return copy.deepcopy(self._loaded_student).requires_grad_(True)


def train(
    trainer: AdversarialTrainer | ConsistencyTrainer, folder: Path, *, kill_at: int | None = None, killed: Path = Path()
) -> list[int]:
    """Train as the stage does, with the checkpoint and the curves in `folder`; returns the steps that were done.

    `killed` becomes a copy of `folder` before step `kill_at`: what a process that is killed at this moment leaves.
    """
    steps = []

    def train_step(step: int) -> Any:
        if step == kill_at:
            shutil.copytree(folder, killed)
        steps.append(step)
        return trainer.train_step(step)

    run_steps(
        train_step,
        TrainingRun(checkpoint_dir=folder, curves_path=folder / "curves.tsv"),
        name="add",
        num_steps=trainer.params.num_steps,
        state=trainer.state(),
        num_weights=trainer.learner.num_weights,
        validate=trainer.validate,
        validation_every_steps=trainer.params.validation_every_steps,
    )
    return steps


def weights(module: torch.nn.Module) -> dict[str, Tensor]:
    return {name: item.detach().clone() for name, item in module.state_dict().items()}


def same(one: Any, other: Any) -> bool:
    """Whether two nested state dicts are equal bit for bit."""
    if isinstance(one, Tensor):
        return torch.equal(one, other)
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(same(one[key], other[key]) for key in one)
    if isinstance(one, list | tuple):
        return len(one) == len(other) and all(same(*pair) for pair in zip(one, other, strict=True))
    return bool(one == other)


def same_training(one: AdversarialTrainer | ConsistencyTrainer, other: AdversarialTrainer | ConsistencyTrainer) -> bool:
    """Whether the checkpoints of two trainers are equal bit for bit."""
    return same(*({name: item.state_dict() for name, item in each.state().items()} for each in (one, other)))


def has_no_gradient(module: torch.nn.Module) -> bool:
    return all(item.grad is None for item in module.parameters())


def x0_of(trainer: AdversarialTrainer, batch: Batch) -> Tensor:
    return trainer.objective.predict_x0(trainer.objective.student_inputs(batch), batch)
