"""Two processes have the same losses and outputs as one: started by `accelerate launch`, with gloo, on tiny models."""

import json
import os
import re
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import psutil
import pytest
import torch
from diffusers import PNDMScheduler
from safetensors.torch import load_file

from naruto_add.diffusion.bundle import load_pipeline_folder, load_unet
from naruto_add.training.draw_pool import draw_pool, pool_prompts

ROOT = Path(__file__).parents[2]
SCRIPT = Path(__file__).with_name("in_processes.py")
WAIT_SECONDS = 300.0
ALL_ON = {
    "discriminators": ["latent", "pixel"],
    "augment_strength": 0.5,
    "real_source": "both",
    "rollout_fraction": 0.4,
}

SAVING_MEMORY = ("accumulation_steps", "gradient_checkpointing")

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def root(tiny_pipeline_dir: Path, tiny_dataset_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The inputs of the three stages."""
    folder = tmp_path_factory.mktemp("processes")
    (folder / "pipeline").symlink_to(tiny_pipeline_dir)
    (folder / "dataset").symlink_to(tiny_dataset_dir)
    draw_pool(
        load_pipeline_folder(tiny_pipeline_dir, precision="fp32"),
        prompts=pool_prompts(tiny_dataset_dir, "{caption}"),
        buckets=[],
        size=40,
        num_steps=4,
        timesteps=[999, 749, 499, 249],
        guidance_scale=3.0,
        seed=0,
        path=folder / "pool.safetensors",
        cache_dir=folder / "drawn",
    )
    student = load_unet(tiny_pipeline_dir / "unet", precision="fp32", scheduler=PNDMScheduler())
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for item in student.parameters():
            item.mul_(1 + 0.05 * torch.randn(item.shape, generator=generator))
    student.save_pretrained(folder / "student")
    return folder


def start(root: Path, stage: str, out: Path, *, num_processes: int, **changes: Any) -> "subprocess.Popen[str]":
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
    # Without --multi_gpu, `accelerate launch` starts one process; without GPUs, processes communicate by gloo.
    launch = ["-m", "accelerate.commands.launch", "--multi_gpu", "--num_processes", "2", "--num_machines", "1"]
    options = ["--mixed_precision", "no", "--dynamo_backend", "no", "--main_process_port", str(port)]
    launcher = [*launch, *options] if num_processes == 2 else []
    command = [sys.executable, *launcher, str(SCRIPT), str(root), stage, str(out), json.dumps(changes)]
    return subprocess.Popen(
        command,
        env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""},
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        start_new_session=True,
    )


def names(folder: Path) -> set[str]:
    """The files in the folder; best weights without the hash in their names, which rounding changes."""
    return {re.sub(r"-[0-9a-f]{32}", "", str(item.relative_to(folder))) for item in folder.rglob("*")}


def finish(process: "subprocess.Popen[str]") -> str:
    output, _ = process.communicate(timeout=WAIT_SECONDS)
    assert process.returncode == 0, output[-4000:]
    return output


def columns(path: Path) -> dict[str, torch.Tensor]:
    """The curves by name, fp64."""
    header, *lines = [line.split("\t") for line in path.read_text().splitlines()]
    values = torch.tensor([[float(cell or "nan") for cell in line] for line in lines], dtype=torch.float64)
    return dict(zip(header, values.T, strict=True))


@pytest.mark.parametrize(
    ("stage", "changes"),
    [
        ("teacher", {}),
        ("student", {}),
        ("add", ALL_ON),
        ("add", {"accumulation_steps": 2, "gradient_checkpointing": True}),
        ("add", {"method": "consistency", "accumulation_steps": 2}),
        ("add", {"resolutions_px": [64], "resolution_pool_size": 40}),
    ],
)
def test_two_processes_have_the_losses_of_one_with_the_same_batch(
    root: Path, tmp_path: Path, stage: str, changes: dict[str, Any]
) -> None:
    """This holds also if the two accumulate gradients and recompute activations, and the one does not."""
    in_one = {name: value for name, value in changes.items() if name not in SAVING_MEMORY}
    finish(start(root, stage, tmp_path / "1", num_processes=1, **in_one))
    finish(start(root, stage, tmp_path / "2", num_processes=2, **changes))
    for name in (f"{stage}.tsv", f"{stage}_validation.tsv"):
        one, two = (columns(tmp_path / str(number) / name) for number in (1, 2))
        assert one.keys() == two.keys()
        for column, values in one.items():
            message = f"{name}, {column}: {{}}".format
            torch.testing.assert_close(two[column], values, rtol=1e-5, atol=1e-5, msg=message)
    assert names(tmp_path / "1") == names(tmp_path / "2")


def test_a_killed_run_of_two_processes_ends_with_the_same_weights(root: Path, tmp_path: Path) -> None:
    options: dict[str, Any] = {"num_processes": 2, "num_steps": 6, "validation_every_steps": 1, **ALL_ON}
    whole = finish(start(root, "add", tmp_path / "whole", **options))
    killed = start(root, "add", tmp_path / "killed", **options)
    checkpoint = tmp_path / "killed/checkpoints/add.pt"
    give_up_at = time.monotonic() + WAIT_SECONDS
    while not checkpoint.exists():
        assert killed.poll() is None, killed.communicate()[0][-4000:]
        assert time.monotonic() < give_up_at
        time.sleep(0.01)
    for process in [psutil.Process(killed.pid), *psutil.Process(killed.pid).children(recursive=True)]:
        process.kill()
    killed.communicate()
    assert 0 < torch.load(checkpoint, weights_only=True)["num_done"] < 6
    assert not (tmp_path / "killed/unet").exists()
    resumed = finish(start(root, "add", tmp_path / "killed", **options))
    assert whole.count("add:   0%|") == 1  # the second process shows no progress
    assert "6/6" in resumed
    one, other = (
        load_file(tmp_path / name / "unet/diffusion_pytorch_model.safetensors") for name in ("whole", "killed")
    )
    assert all(torch.equal(one[name], other[name]) for name in one)
    for name in ("add.tsv", "add_validation.tsv", "metrics.json"):
        assert (tmp_path / "whole" / name).read_bytes() == (tmp_path / "killed" / name).read_bytes()


def test_a_batch_that_cannot_be_divided_is_an_error(root: Path, tmp_path: Path) -> None:
    process = start(root, "student", tmp_path, num_processes=2, batch_size=7, num_steps=2)
    output, _ = process.communicate(timeout=WAIT_SECONDS)
    assert process.returncode
    assert "student.batch_size: 7 is not a multiple of 2" in output
