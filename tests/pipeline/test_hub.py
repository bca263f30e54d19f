"""Hub libraries stay offline unless a parameter requires a hub."""

import os
from pathlib import Path
from typing import Any

import pytest

from naruto_add.config.load import load_params
from naruto_add.config.schema import Params
from naruto_add.pipeline.hub import needs_hub, stay_offline

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
        ("add", {"pixel_backbone": "dinov2_small", "discriminators": ["latent", "pixel"]}),
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
        {"pixel_backbone": "dinov2_small", "discriminators": ["latent"]},
        {"pixel_backbone": "dinov2_small", "discriminators": ["pixel"], "method": "consistency"},
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
