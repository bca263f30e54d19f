"""A pool, a student, and trainers that start from them."""

import json
from collections.abc import Generator
from functools import cache
from pathlib import Path

import pytest
import torch
from diffusers import PNDMScheduler, UNet2DConditionModel

from naruto_add.diffusion.bundle import ModelBundle, decode_latents, load_pipeline_folder, load_unet
from naruto_add.imaging.grid import to_images
from naruto_add.models import backbones
from naruto_add.training.draw_pool import draw_pool, pool_prompts
from naruto_add.training.pool import load_pool
from tests.training.add.build import GUIDANCE_SCALE, TEMPLATE, TIMESTEPS, Build


@pytest.fixture(autouse=True, scope="session")
def feature_networks_loaded_once() -> Generator[None]:
    """The frozen feature networks are shared by all trainers, which take less time to build."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(backbones, "load_efficientnet", cache(backbones.load_efficientnet))
        yield


@pytest.fixture(scope="session")
def pool_path(tiny_pipeline_dir: Path, tiny_dataset_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("pool")
    draw_pool(
        load_pipeline_folder(tiny_pipeline_dir, precision="fp32"),
        prompts=pool_prompts(tiny_dataset_dir, TEMPLATE),
        buckets=[],
        size=16,
        num_steps=4,
        timesteps=TIMESTEPS,
        guidance_scale=GUIDANCE_SCALE,
        seed=0,
        path=folder / "pool.safetensors",
        cache_dir=folder,
    )
    return folder / "pool.safetensors"


@pytest.fixture(scope="session")
def drawn_dataset_dir(
    loaded_tiny_bundle: ModelBundle, pool_path: Path, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """A data set of pictures that the teacher drew: two for training and four for validation.

    They are near to the student's, so that the validation score can tell what a student draws from noise.
    """
    folder = tmp_path_factory.mktemp("drawn")
    splits = ["train"] * 2 + ["validation"] * 4
    images = to_images(decode_latents(loaded_tiny_bundle, load_pool(pool_path).x0[: len(splits)]))
    rows = []
    for index, (image, split) in enumerate(zip(images, splits, strict=True)):
        image.save(folder / f"{index}.png")
        rows.append({"file_name": f"{index}.png", "text": f"picture {index}", "split": split})
    (folder / "metadata.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


@pytest.fixture(scope="session")
def student_dir(tiny_pipeline_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A student whose weights are near the teacher's."""
    student = load_unet(tiny_pipeline_dir / "unet", precision="fp32", scheduler=PNDMScheduler())
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for item in student.parameters():
            item.mul_(1 + 0.05 * torch.randn(item.shape, generator=generator))
    folder = tmp_path_factory.mktemp("student")
    student.save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def student(student_dir: Path) -> UNet2DConditionModel:
    """The student as loaded; trainers start from copies, which take less time."""
    return load_unet(student_dir, precision="fp32", scheduler=PNDMScheduler())


@pytest.fixture
def build(
    tiny_bundle: ModelBundle,
    student: UNet2DConditionModel,
    student_dir: Path,
    pool_path: Path,
    tiny_dataset_dir: Path,
    tmp_path: Path,
) -> Build:
    return Build(
        tiny_bundle,
        student=student,
        student_dir=student_dir,
        pool_path=pool_path,
        dataset_dir=tiny_dataset_dir,
        tmp=tmp_path / "cache",
    )
