"""A stage's process ends with its parent, and hub libraries stay offline unless a parameter requires a hub."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import psutil
import pytest

from naruto_add.config.load import load_params
from naruto_add.config.schema import Params
from naruto_add.runtime.process import needs_hub, stay_offline

ROOT = Path(__file__).parents[2]
REPOSITORY = "owner/name@" + "0" * 40


def _params(section: str = "add", **changes: Any) -> Params:
    params = load_params(ROOT / "params.yaml")
    return params.model_copy(update={section: getattr(params, section).model_copy(update=changes)})


@pytest.fixture(autouse=True)
def project(monkeypatch: pytest.MonkeyPatch) -> None:
    """The folder that contains base/model."""
    monkeypatch.chdir(ROOT)


@pytest.mark.parametrize(
    ("section", "changes"),
    [
        ("base", {"model": "owner/name"}),
        ("evaluate", {"features": "clip"}),
        ("evaluate", {"features": "dinov2"}),
        ("evaluate", {"clip_score": REPOSITORY}),
        ("ingest", {"source": "hub"}),
        ("add", {"pixel_backbone": "dinov2_small", "method": "consistency"}),
        ("add", {"score_backbone": "dinov2_small"}),
        ("add", {"image_text_network": REPOSITORY, "image_text_weight": 0.5}),
    ],
)
def test_a_parameter_that_names_a_hub_needs_it(section: str, changes: dict[str, Any]) -> None:
    assert needs_hub(_params(section, **changes))


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"image_text_network": REPOSITORY},
        {"image_text_network": REPOSITORY, "image_text_weight": 0.5, "method": "consistency"},
        {"image_text_network": "caption_match", "image_text_weight": 0.5},
    ],
)
def test_other_parameters_need_no_hub(changes: dict[str, Any]) -> None:
    assert not needs_hub(_params("add", **changes))


def test_hub_libraries_stay_offline_unless_a_hub_is_needed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "0")
    monkeypatch.delenv("HF_HUB_OFFLINE")
    stay_offline(_params("ingest", source="hub"))
    assert "HF_HUB_OFFLINE" not in os.environ
    stay_offline(_params())
    assert os.environ["HF_HUB_OFFLINE"] == "1"


def test_the_users_choice_of_offline_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "0")
    stay_offline(_params())
    assert os.environ["HF_HUB_OFFLINE"] == "0"


@pytest.mark.skipif(sys.platform != "linux", reason="the parent-death signal exists on Linux only")
def test_a_process_ends_when_its_parent_is_killed(tmp_path: Path) -> None:
    child = (
        "import time; from pathlib import Path; from naruto_add.runtime.process import terminate_with_parent\n"
        "terminate_with_parent(); Path('started').touch(); time.sleep(600)"
    )
    parent = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {child!r}])"
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "src")}
    process = subprocess.Popen([sys.executable, "-c", parent], cwd=tmp_path, env=environment)
    try:
        _wait_until((tmp_path / "started").exists)
        (stage,) = psutil.Process(process.pid).children()
        process.send_signal(signal.SIGKILL)
        process.wait()
        _wait_until(lambda: not stage.is_running() or stage.status() == psutil.STATUS_ZOMBIE)
    finally:
        process.kill()


def _wait_until(condition: Any, *, seconds: float = 60.0) -> None:
    give_up_at = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < give_up_at
        time.sleep(0.02)
