"""Two processes draw the pictures of one: started by `accelerate launch`, with gloo, on tiny models."""

import os
import socket
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

ROOT = Path(__file__).parents[2]
SCRIPT = Path(__file__).with_name("in_processes.py")
WAIT_SECONDS = 600

pytestmark = pytest.mark.slow


def _run(*arguments: Path, num_processes: int) -> None:
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
    launch = ["-m", "accelerate.commands.launch", "--multi_gpu", "--num_processes", "2", "--num_machines", "1"]
    options = ["--mixed_precision", "no", "--dynamo_backend", "no", "--main_process_port", str(port)]
    command = [sys.executable, *([*launch, *options] if num_processes == 2 else []), SCRIPT, *arguments]
    subprocess.run(
        command,
        env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""},
        timeout=WAIT_SECONDS,
        check=True,
    )


def test_evaluation_and_grids_of_two_processes_are_those_of_one(
    tiny_pipeline_dir: Path, tiny_dataset_dir: Path, tmp_path: Path
) -> None:
    for number in (1, 2):
        (tmp_path / str(number)).mkdir()
        _run(tiny_pipeline_dir, tiny_dataset_dir, tmp_path / str(number), num_processes=number)
    one, two = (np.load(tmp_path / str(number) / "images.npy") for number in (1, 2))
    assert len(one) == 7
    assert np.array_equal(one, two)
    grids = sorted(path.name for path in (tmp_path / "1/grids").glob("*.png"))
    assert len(grids) == 6
    for name in grids:
        first, second = (
            np.asarray(Image.open(tmp_path / str(number) / "grids" / name), dtype=int) for number in (1, 2)
        )
        assert first.shape == second.shape
        assert np.abs(first - second).max() <= 2  # batches of other sizes round differently
