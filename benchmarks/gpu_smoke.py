"""The pipeline at SD 1.5's shape and 512 px for a few steps on this GPU: `python -m benchmarks.gpu_smoke`.

Makes a base model of random weights with SD 1.5's structure and a few drawings as data, runs the stages of a profile
with all numbers of steps cut down, and prints tables: seconds and GPU memory of every stage, and the computed memory
beside it; the time of a step of every training; how many times faster the student draws than the teacher in 100 steps;
and the errors of fp16 at t = 999 and below. Weights are random, so pictures mean nothing. Nothing is downloaded.
Without a GPU it needs hours; `--resolution 64 --width 32` checks the command itself on a CPU.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKL, PNDMScheduler, StableDiffusionPipeline, UNet2DConditionModel
from ruamel.yaml import YAML
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

from naruto_add.config.load import parse_params
from naruto_add.config.profiles import compose_profile
from naruto_add.diffusion.single_file import SD_SCHEDULE
from naruto_add.estimate.networks import SD15_UNET, SD15_VAE, shapes_of
from naruto_add.estimate.report import stage_peaks
from naruto_add.estimate.tasks import all_tasks

ROOT = Path(__file__).parents[1]
STAGES = ("inputs", "ingest", "teacher", "student", "add", "evaluate", "samples", "export")
GB = 1e9
NUM_DRAWINGS = 40


def main() -> None:
    """Run the stages and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--profile", default="sd15", help="sd15, or a preset such as sd15-12gb")
    parser.add_argument("--resolution", type=int, default=512)
    parser.add_argument("--width", type=int, default=320, help="channels of the U-Net's first level; SD 1.5 has 320")
    parser.add_argument("--steps", type=int, default=4, help="steps of every training")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="gpu-smoke-") as name:
        folder = Path(name)
        make_base(folder / "base", width=options.width, resolution_px=options.resolution)
        values = make_params(options.profile, folder / "base", resolution_px=options.resolution, steps=options.steps)
        project(folder, values)
        params = parse_params(values)
        computed = stage_peaks(list(all_tasks(params, shapes_of(params.base), num_pictures=NUM_DRAWINGS)))
        print(f"{device_name()}, profile {options.profile}, {options.resolution} px, torch {torch.__version__}\n")
        print(f"{'stage':<10}{'seconds':>10}{'GPU memory':>14}{'computed':>12}", flush=True)
        steps: dict[str, list[float]] = {}
        for stage in STAGES:
            ran = run_stage(stage, folder)
            steps |= ran.step_seconds
            memory = f"{ran.peak_bytes / GB:11.2f} GB{computed.get(stage, 0) / GB:9.2f} GB"
            print(f"{stage:<10}{ran.seconds:10.1f}{memory}", flush=True)
        print(f"\n{'training':<24}{'ms a step':>12}{'pictures/s':>14}")
        for training, seconds in steps.items():
            size = values[training.partition(",")[0]]["batch_size"]
            print(f"{training:<24}{1000 * typical(seconds):12.1f}{size / typical(seconds):14.2f}")
        print(flush=True)
        run([sys.executable, "-m", "benchmarks.gpu_health"], folder, is_shown=True)


@dataclass(frozen=True)
class Ran:
    """The seconds of a stage, the most GPU memory that it reserved, and the seconds of the steps of its trainings."""

    seconds: float
    peak_bytes: int
    step_seconds: dict[str, list[float]]


def typical(seconds: Sequence[float]) -> float:
    """The median without the first step, which also prepares what later steps use; of one step, that one."""
    return statistics.median(seconds[1:] or seconds)


def make_base(folder: Path, *, width: int, resolution_px: int) -> None:
    """A pipeline with SD 1.5's structure; at width 320 its U-Net has SD 1.5's 859,520,964 parameters."""
    factor = 320 // width
    torch.manual_seed(0)
    tokenizer = CLIPTokenizer.from_pretrained(ROOT / "base/model/tokenizer")
    unet = {**SD15_UNET, "block_out_channels": tuple(item // factor for item in SD15_UNET["block_out_channels"])}
    vae_widths = tuple(max(32, item // factor // 32 * 32) for item in SD15_VAE["block_out_channels"])
    vae = {**SD15_VAE, "block_out_channels": vae_widths}
    text = CLIPTextConfig(
        vocab_size=len(tokenizer),
        hidden_size=768,
        intermediate_size=3072 // factor,
        num_hidden_layers=12 if factor == 1 else 1,
        num_attention_heads=12,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    StableDiffusionPipeline(
        vae=AutoencoderKL(**vae, sample_size=resolution_px),
        text_encoder=CLIPTextModel(text),
        tokenizer=tokenizer,
        unet=UNet2DConditionModel(**unet, sample_size=resolution_px // 8),
        scheduler=PNDMScheduler(**SD_SCHEDULE, skip_prk_steps=True),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    ).save_pretrained(folder)


def make_params(profile: str, base: Path, *, resolution_px: int, steps: int) -> dict[str, Any]:
    """The profile's values, with drawings as data, the networks that come with the project, and few steps."""
    values: dict[str, Any] = YAML(typ="safe").load(compose_profile(profile, root=ROOT))
    values["base"] |= {"model": str(base), "revision": "", "resolution_px": resolution_px}
    values["ingest"] |= {"source": "shinobi", "num_drawings": NUM_DRAWINGS, "min_side_px": 32, "hub_dataset": ""}
    values["ingest"] |= {"revision": "", "validation_fraction": 0.1, "test_fraction": 0.2}
    values["sampling"] |= {"teacher_steps": 4, "pool_steps": 4}
    for stage in ("teacher", "student", "add"):
        values[stage] |= {"num_steps": steps, "validation_every_steps": steps}
        values[stage]["optimizer"]["warmup_steps"] = 1
    values["student"] |= {"pool_size": 32, "knowledge_steps": steps // 2}
    values["add"] |= {"adv_start_steps": 1, "adv_ramp_steps": 1, "require_trained_student": False}
    values["add"] |= {"pixel_backbone": "efficientnet_lite0", "score_backbone": "efficientnet_lite2"}
    values["evaluate"] |= {"features": "embedded", "perceptual": "embedded", "clip_score": "off", "sweep_images": 2}
    values["export"] |= {"tiny_decoder": "distilled", "tiny_decoder_steps": steps}
    values["evaluate"] |= {"teacher_sweep": [4], "student_sweep": [1, 4], "latency_repeats": 1, "teacher_steps": 4}
    return values


def project(folder: Path, values: dict[str, Any]) -> None:
    """What the stages need in their working directory."""
    for name in ("stages", "src", "packages.yaml", "requirements.lock", "dvc.yaml"):
        (folder / name).symlink_to(ROOT / name)
    YAML().dump(values, folder / "params.yaml")


def run_stage(stage: str, folder: Path) -> Ran:
    """Run the stage in the folder."""
    started = time.perf_counter()
    output = run([sys.executable, "-m", "benchmarks.smoke_stage", stage], folder)
    found = json.loads(output.splitlines()[-1])
    return Ran(time.perf_counter() - started, found["peak"], found["seconds"])


def run(command: Sequence[str], folder: Path, *, is_shown: bool = False) -> str:
    """What the command, which finds its own modules here and `stages` in the folder, prints."""
    result = subprocess.run(
        command,
        cwd=folder,
        env={**os.environ, "PYTHONPATH": f"{ROOT}{os.pathsep}{ROOT / 'src'}"},
        stdout=None if is_shown else subprocess.PIPE,
        text=True,
        check=False,
    )
    if result.returncode:
        sys.exit(f"{' '.join(command[1:])} failed:\n{(result.stdout or '')[-4000:]}")
    return result.stdout or ""


def device_name() -> str:
    """The name of the GPU, or CPU."""
    return torch.cuda.get_device_name() if torch.cuda.is_available() else "CPU"


if __name__ == "__main__":
    main()
