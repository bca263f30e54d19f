"""Only those parts of a base model on the hub that are used are downloaded."""

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


def test_unused_parts_are_not_downloaded(tmp_path: Path) -> None:
    repository = tmp_path / "hub/owner/base"
    for part in (*PARTS, *UNUSED):
        (repository / part).mkdir(parents=True)
        (repository / part / "config.json").write_text("{}")
        (repository / part / "model.safetensors").write_bytes(b"weights")
    index = {part: ["library", "Class"] for part in (*PARTS, *UNUSED)}
    (repository / "model_index.json").write_text(json.dumps(index))
    with loopback_hub.serve(tmp_path / "hub") as address:
        settings = {
            "HF_ENDPOINT": address,
            "HF_HOME": str(tmp_path / "cache"),
            "HF_HUB_DISABLE_XET": "1",
            "HF_HUB_OFFLINE": "0",  # a stage that ran in this process may have set it
        }
        command = [sys.executable, "-c", FETCH, loopback_hub.COMMIT]
        subprocess.run(command, env={**os.environ, **settings}, check=True)
    log = (tmp_path / "hub/requests.log").read_text()
    assert all(f"/{part}/model.safetensors" in log for part in PARTS[:3])
    assert not any(f"/{part}/" in log for part in UNUSED)
