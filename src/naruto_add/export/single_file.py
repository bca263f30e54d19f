"""Teacher and student as single files in the original layout of Stable Diffusion 1.x, fp16, for ComfyUI and others."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor

from naruto_add.config.schema import StudentScheduler
from naruto_add.diffusion.bundle import ModelBundle
from naruto_add.export.modelspec import SD_CONTEXT_WIDTH, modelspec, usage_hint
from naruto_add.export.original_layout import Numbering, original_state
from naruto_add.export.safetensors_file import save_sorted
from naruto_add.runtime.errors import StageError

SD_CHANNELS = 320
"""Width of the first level of Stable Diffusion 1.x, by which every tool recognizes it."""
TINY_LEVELS = 3
TEACHER, STUDENT, STUDENT_GAPS = "teacher.safetensors", "student.safetensors", "student_gaps.safetensors"


def write_single_files(
    teacher: ModelBundle,
    student: ModelBundle,
    folder: Path,
    *,
    prompt_template: str,
    num_steps: int,
    student_scheduler: StudentScheduler,
) -> None:
    """Write the teacher, the student numbered for ComfyUI, and a bk_tiny student for stable-diffusion.cpp too.

    Raises StageError if fp16 cannot hold a weight.
    """
    metadata = modelspec(prompt_template, teacher.scheduler.config.prediction_type)
    if not unfit_reason(teacher.unet.config):
        metadata["modelspec.architecture"] = "stable-diffusion-v1"
    # No tool's sampler takes the steps of a student that was trained for LCM's.
    settings = f"euler, scheduler simple, {num_steps} steps, cfg 1" if student_scheduler == "ddim" else ""
    teacher_hint, student_hint = (usage_hint(text, student.caption_chunks) for text in ("", settings))
    _write(teacher, folder / TEACHER, "contiguous", metadata | teacher_hint)
    _write(student, folder / STUDENT, "contiguous", metadata | student_hint)
    if is_bk_tiny(student.unet.config):
        _write(student, folder / STUDENT_GAPS, "gaps", metadata | student_hint)


def unfit_reason(unet: Mapping[str, Any]) -> str:
    """Why no tool for Stable Diffusion 1.x loads files of this U-Net; empty if they do."""
    channels, width = unet["block_out_channels"][0], unet["cross_attention_dim"]
    if (channels, width, unet["in_channels"]) == (SD_CHANNELS, SD_CONTEXT_WIDTH, 4):
        return ""
    return (
        f"its U-Net has {channels} channels, {unet['in_channels']} latent channels and text embeddings of width "
        f"{width}, and Stable Diffusion 1.x has {SD_CHANNELS}, 4 and {SD_CONTEXT_WIDTH}"
    )


def is_bk_tiny(unet: Mapping[str, Any]) -> bool:
    """Whether this is the U-Net of BK-SDM-Tiny, the only pruned one that stable-diffusion.cpp knows."""
    return (
        len(unet["block_out_channels"]) == TINY_LEVELS
        and unet["layers_per_block"] == 1
        and unet["mid_block_type"] is None
        and all(kind.startswith("CrossAttn") for kind in unet["down_block_types"])
    )


def largest_difference(bundle: ModelBundle, path: Path, numbering: Numbering = "contiguous") -> float:
    """Largest difference between the weights of the file and the model's, of weights above 1 relative to them.

    Raises StageError if the file has other weights.
    """
    ours = original_state(bundle.unet, bundle.vae, bundle.text_encoder, numbering=numbering)
    theirs = load_file(path)
    if ours.keys() != theirs.keys():
        raise StageError(f"export: {path} has other weights: {sorted(ours.keys() ^ theirs.keys())[:3]}")
    return max(_difference(ours[name], theirs[name]) for name in ours)


def _write(bundle: ModelBundle, path: Path, numbering: Numbering, metadata: dict[str, str]) -> None:
    state = original_state(bundle.unet, bundle.vae, bundle.text_encoder, numbering=numbering)
    halves = {name: _half(name, weight) for name, weight in sorted(state.items())}
    save_sorted(halves, path, metadata={"format": "pt", "modelspec.title": path.stem, **metadata})


def _half(name: str, weight: Tensor) -> Tensor:
    if not weight.is_floating_point():
        return weight.detach().cpu()
    half = weight.detach().to("cpu", torch.float16)
    if not half.isfinite().all():
        raise StageError(f"export.formats: single_file is in fp16, which cannot hold {name}; leave single_file out")
    return half


def _difference(ours: Tensor, theirs: Tensor) -> float:
    ours, theirs = ours.detach().cpu().float(), theirs.float()
    return ((ours - theirs).abs() / ours.abs().clamp(min=1)).max().item()
