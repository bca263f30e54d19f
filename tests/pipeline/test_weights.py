"""Only those parts of a base model on the hub that are used are downloaded; variants of weights are named."""

import json
import os
import subprocess
import sys
from pathlib import Path

from tests import loopback_hub

PARTS = ("vae", "unet", "text_encoder", "tokenizer", "scheduler")
UNUSED = ("safety_checker", "feature_extractor", "image_encoder")
FETCH = """
import sys
from naruto_add.pipeline.weights import fetch_base
fetch_base("owner/base", revision=sys.argv[1], variant="")
"""


def _fetch(folder: Path) -> "subprocess.CompletedProcess[str]":
    """Fetch the base from the hub in `folder`, in a process of its own: clients read the address when imported."""
    with loopback_hub.serve(folder / "hub") as address:
        settings = {
            "HF_ENDPOINT": address,
            "HF_HOME": str(folder / "cache"),
            "HF_HUB_DISABLE_XET": "1",
            "HF_HUB_OFFLINE": "0",  # a stage that ran in this process may have set it
        }
        command = [sys.executable, "-c", FETCH, loopback_hub.COMMIT]
        return subprocess.run(command, env={**os.environ, **settings}, capture_output=True, text=True, check=False)


def test_unused_parts_are_not_downloaded(tmp_path: Path) -> None:
    repository = tmp_path / "hub/owner/base"
    for part in (*PARTS, *UNUSED):
        (repository / part).mkdir(parents=True)
        (repository / part / "config.json").write_text("{}")
        (repository / part / "model.safetensors").write_bytes(b"weights")
    index = {part: ["library", "Class"] for part in (*PARTS, *UNUSED)}
    (repository / "model_index.json").write_text(json.dumps(index))
    assert _fetch(tmp_path).returncode == 0
    log = (tmp_path / "hub/requests.log").read_text()
    assert all(f"/{part}/model.safetensors" in log for part in PARTS[:3])
    assert not any(f"/{part}/" in log for part in UNUSED)


def test_a_repository_with_weights_in_fp16_only_says_which_variant_to_set(tmp_path: Path) -> None:
    repository = tmp_path / "hub/owner/base"
    for part in PARTS:
        (repository / part).mkdir(parents=True)
        (repository / part / "config.json").write_text("{}")
    for name in ("unet/diffusion_pytorch_model", "vae/diffusion_pytorch_model", "text_encoder/model"):
        (repository / f"{name}.fp16.safetensors").write_bytes(b"weights")
    (repository / "model_index.json").write_text(json.dumps({part: ["library", "Class"] for part in PARTS}))
    result = _fetch(tmp_path)
    assert result.returncode != 0
    message = result.stderr.splitlines()[-1]
    assert "StageError: base.variant: '' is not a variant of the weights of owner/base@" in message
    assert message.endswith("; set base.variant: fp16")
