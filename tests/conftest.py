"""Tiny models and data in the formats that the pipeline reads, made without network access.

torch is imported by fixtures only: the process that distributes the tests to others loads this file and needs no torch.
"""

import copy
import json
import os
import shutil
from collections.abc import Generator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from diffusers import AutoencoderKL, UNet2DConditionModel
    from transformers import CLIPTextModel, CLIPTokenizer

    from naruto_add.diffusion.bundle import ModelBundle

ROOT = Path(__file__).parent.parent
os.environ |= {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}  # read when torch is imported, in child processes too


@pytest.fixture
def two_threads(monkeypatch: pytest.MonkeyPatch) -> Generator[None]:
    """torch has two threads and no GPU, so that `compute_in_threads` computes two items at once."""
    import torch

    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def tiny_pipeline_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random Stable Diffusion pipeline for 32 px pictures with 4x4x4 latents."""
    folder = tmp_path_factory.mktemp("tiny") / "pipeline"
    save_tiny_pipeline(folder)
    return folder


def save_tiny_pipeline(folder: Path) -> None:
    """Write the pipeline of `tiny_pipeline_dir`, for scripts without fixtures."""
    import torch
    from diffusers import PNDMScheduler, StableDiffusionPipeline
    from transformers import CLIPTokenizer

    torch.manual_seed(0)
    tokenizer = CLIPTokenizer.from_pretrained(ROOT / "base/model/tokenizer")
    pipeline = StableDiffusionPipeline(
        vae=_tiny_vae(),
        text_encoder=_tiny_text_encoder(tokenizer),
        tokenizer=tokenizer,
        unet=_tiny_unet(),
        scheduler=PNDMScheduler(
            beta_start=0.00085,
            beta_end=0.012,
            beta_schedule="scaled_linear",
            skip_prk_steps=True,
            set_alpha_to_one=False,
            steps_offset=1,
        ),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    pipeline.save_pretrained(folder)


@pytest.fixture(scope="session")
def sd15_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A narrow checkpoint with the structure, names and old configurations of Stable Diffusion 1.5."""
    from tests.sd15_checkpoint import write_checkpoint

    return write_checkpoint(tmp_path_factory.mktemp("sd15") / "checkpoint")


@pytest.fixture(scope="session")
def loaded_tiny_bundle(tiny_pipeline_dir: Path) -> "ModelBundle":
    """The tiny pipeline, frozen. Tests use copies of it, which take less time than loading."""
    from naruto_add.diffusion.bundle import load_pipeline_folder

    return load_pipeline_folder(tiny_pipeline_dir, precision="fp32")


@pytest.fixture
def tiny_bundle(loaded_tiny_bundle: "ModelBundle") -> "ModelBundle":
    """A copy of the tiny pipeline as loaded, which the test may change."""
    return copy.deepcopy(loaded_tiny_bundle)


@pytest.fixture(scope="session")
def tiny_dataset_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Twenty-four drawings of 32 px in the format of `ingest`: 16 for training, 4 for validation, 4 for test."""
    from naruto_add.data.shinobi.draw import draw_shinobi

    folder = tmp_path_factory.mktemp("tiny") / "dataset"
    (folder / "images").mkdir(parents=True)
    splits = ["train"] * 16 + ["validation"] * 4 + ["test"] * 4
    rows = []
    for index, split in enumerate(splits):
        drawing = draw_shinobi(index, seed=0, size_px=32)
        file_name = f"images/{index:05d}.png"
        drawing.image.save(folder / file_name)
        rows.append({"file_name": file_name, "text": drawing.caption, "split": split, **drawing.attributes})
    (folder / "metadata.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


@pytest.fixture(scope="session")
def bucketed_dataset_dir(tiny_dataset_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The pictures of `tiny_dataset_dir`, of which six for training, two for validation and one for test are wide.

    The wide pictures have 64 x 32 px: the drawing in the middle, between black and white.
    """
    from PIL import Image

    folder = tmp_path_factory.mktemp("bucketed") / "dataset"
    shutil.copytree(tiny_dataset_dir, folder)
    (folder / "buckets").mkdir()
    rows = [json.loads(line) for line in (folder / "metadata.jsonl").read_text().splitlines()]
    for index, row in enumerate(rows):
        row["bucket_file"] = ""
        if index in (1, 4, 5, 9, 11, 14, 17, 19, 21):
            row["bucket_file"] = row["file_name"].replace("images", "buckets")
            wide = Image.new("RGB", (64, 32), "black")
            wide.paste("white", (32, 0, 64, 32))
            with Image.open(folder / row["file_name"]) as drawing:
                wide.paste(drawing, (16, 0))
            wide.save(folder / row["bucket_file"])
    (folder / "metadata.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


def _tiny_vae() -> "AutoencoderKL":
    from diffusers import AutoencoderKL

    return AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        block_out_channels=(8, 8, 8, 8),
        layers_per_block=1,
        latent_channels=4,
        norm_num_groups=4,
        sample_size=32,
    )


def _tiny_text_encoder(tokenizer: "CLIPTokenizer") -> "CLIPTextModel":
    from transformers import CLIPTextConfig, CLIPTextModel

    return CLIPTextModel(
        CLIPTextConfig(
            vocab_size=len(tokenizer),
            hidden_size=16,
            intermediate_size=32,
            projection_dim=16,
            num_hidden_layers=2,
            num_attention_heads=2,
            max_position_embeddings=77,
            bos_token_id=tokenizer.bos_token_id,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
        )
    )


def _tiny_unet() -> "UNet2DConditionModel":
    from diffusers import UNet2DConditionModel

    return UNet2DConditionModel(
        sample_size=4,
        in_channels=4,
        out_channels=4,
        down_block_types=("CrossAttnDownBlock2D", "CrossAttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D", "CrossAttnUpBlock2D"),
        block_out_channels=(16, 32, 32),
        layers_per_block=2,
        attention_head_dim=2,
        cross_attention_dim=16,
        norm_num_groups=8,
    )
