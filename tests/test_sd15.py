"""The whole pipeline on a base with the structure, names and old files of Stable Diffusion 1.5 or 2.1, from a hub.

Widths are smaller than the original's and weights are random: what is proven is that every stage takes such a base at
its resolution, and that the export is one that plain diffusers loads and draws with. `make sd15` runs it.
"""

import sys
from collections.abc import Generator
from pathlib import Path

import pytest
import torch
from diffusers import DiffusionPipeline

from tests import loopback_hub
from tests.project import Project
from tests.sd15_checkpoint import write_checkpoint

pytestmark = pytest.mark.slow

MODEL = "owner/sd15"
FEW: dict[str, object] = {
    "base.model": MODEL,
    "base.revision": loopback_hub.COMMIT,
    "ingest.num_drawings": 20,
    "student.pool_size": 8,
    "student.architecture": "bk_small",
    "student.num_steps": 3,
    "student.knowledge_steps": 2,
    "teacher.num_steps": 3,
    "add.num_steps": 4,
    "add.discriminators": ["latent"],
    "add.require_trained_student": False,
    "export.precision": "fp16",
    "evaluate.num_images": 2,
    "evaluate.sweep_images": 2,
    "evaluate.classifier_steps": 0,
}


class HubProject(Project):
    """A project whose base is on the loopback hub."""

    hub: str

    def environment(self) -> dict[str, str]:
        """With the hub's address, and a cache of its own."""
        cache = str(self.log_dir / "hub")
        settings = {"HF_ENDPOINT": self.hub, "HF_HOME": cache, "HF_HUB_DISABLE_XET": "1"}
        return {**super().environment(), **settings, "HF_HUB_DISABLE_TELEMETRY": "1"}


@pytest.fixture
def hub_dir(tmp_path: Path) -> Path:
    return tmp_path / "hub"


@pytest.fixture
def hub(hub_dir: Path) -> Generator[str]:
    hub_dir.mkdir()
    with loopback_hub.serve(hub_dir) as address:
        yield address


def _project(root: Path, hub: str, tiny_pipeline_dir: Path, changes: dict[str, object]) -> HubProject:
    HubProject.hub = hub
    return HubProject(root, tiny_pipeline_dir, {**FEW, **changes})


@pytest.mark.parametrize(
    ("kind", "resolution_px"),
    [("epsilon", 64), ("epsilon", 256), ("v_prediction", 64), ("v_prediction", 256), ("second", 64)],
)
def test_the_pipeline_runs_on_a_base_from_the_hub_and_its_export_draws_in_plain_diffusers(
    tiny_pipeline_dir: Path, hub_dir: Path, hub: str, tmp_path: Path, kind: str, resolution_px: int
) -> None:
    options = {"second": {"is_second": True}, "v_prediction": {"prediction_type": "v_prediction"}, "epsilon": {}}
    write_checkpoint(hub_dir / MODEL, **options[kind])
    for name in ("config.json", "model.safetensors"):  # of a part that is not used
        (hub_dir / MODEL / "safety_checker").mkdir(exist_ok=True)
        (hub_dir / MODEL / "safety_checker" / name).write_text("{}")
    changes = {"base.resolution_px": resolution_px, "ingest.min_side_px": resolution_px, "add.crop_px": 64}
    if kind == "second":  # its tensors have no names in the layout of single files
        changes |= {"export.formats": ["diffusers", "lora"]}
    project = _project(tmp_path / "project", hub, tiny_pipeline_dir, changes)
    project.dvc("repro")

    pipeline = DiffusionPipeline.from_pretrained(project.root / "models/export")
    assert {part.dtype for part in (pipeline.unet, pipeline.vae, pipeline.text_encoder)} == {torch.float32}
    assert pipeline("a man", num_inference_steps=4).images[0].size == (resolution_px, resolution_px)
    assert pipeline.text_encoder.config.num_hidden_layers == (23 if kind == "second" else 1)
    requests = (hub_dir / "requests.log").read_text().splitlines()
    assert all(MODEL in request and "safety_checker/" not in request for request in requests)
    assert {request.split("/resolve/")[1].split("/")[0] for request in requests if "/resolve/" in request} == {
        loopback_hub.COMMIT
    }


@pytest.mark.parametrize(
    ("name", "revision", "message"),
    [
        ("owner/gated", loopback_hub.COMMIT, "error: base.model: 'owner/gated' is gated: accept its licence"),
        ("owner/none", loopback_hub.COMMIT, "error: base.model: the hub has no repository 'owner/none'"),
        (MODEL, "0" * 40, f"error: base.model: {MODEL!r} has no revision"),
    ],
)
def test_a_hub_that_refuses_the_base_stops_the_first_stage_and_says_what_to_do(
    tiny_pipeline_dir: Path, hub_dir: Path, hub: str, tmp_path: Path, name: str, revision: str, message: str
) -> None:
    for repository in (MODEL, "owner/gated"):
        (hub_dir / repository).mkdir(parents=True)
    (hub_dir / "owner/gated" / loopback_hub.GATED).touch()
    changes: dict[str, object] = {"base.model": name, "base.revision": revision}
    project = _project(tmp_path / "project", hub, tiny_pipeline_dir, changes)
    assert message in project.fail(sys.executable, "-m", "stages.inputs")
    assert not (project.root / "data/inputs").exists()
