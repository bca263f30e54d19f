"""Live numbers and pictures of a training run are in the files of the tool that `tracking` names."""

import json
import struct
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from ruamel.yaml import YAML

from naruto_add.config.schema import Tracking
from naruto_add.runtime.errors import StageError
from naruto_add.training.loop import TrainingRun, run_steps
from tests.extras import need_packages

NUM_STEPS = 6
LOG_BLOCK, LOG_HEADER, LAST_PARTS = 2**15, struct.Struct("<IHB"), (1, 4)
"""Of LevelDB's log: the size of a block, the header of a part (checksum, length, kind), kinds that end a record."""


@pytest.fixture(autouse=True)
def working_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("WANDB_MODE", "")  # restored after the test
    monkeypatch.delenv("WANDB_MODE")


def _train(tool: Tracking, during: Any = None) -> None:
    """Six steps whose loss is 1 / step; the third is skipped. Validations after the steps 3 and 6 draw two pictures."""

    def step(number: int) -> dict[str, float | None]:
        if during is not None:
            during(number)
        return {"loss": 1 / (number + 1), "grad_norm": None if number == 2 else 2.0}

    run_steps(
        step,
        TrainingRun(checkpoint_dir=Path("checkpoints"), curves_path=Path("toy.tsv"), tracking=tool),
        name="toy",
        num_steps=NUM_STEPS,
        state={},
        num_weights=1,
        validate=lambda num_done: {"score": float(num_done)},
        validation_every_steps=3,
        pictures=lambda: np.stack([np.full((4, 4, 3), value, dtype=np.uint8) for value in (0, 200)]),
    )


def test_tensorboard_has_losses_scores_and_pictures() -> None:
    need_packages("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    _train("tensorboard")
    events = EventAccumulator("tracking/tensorboard/toy").Reload()
    losses = [(item.step, item.value) for item in events.Scalars("loss")]
    assert losses == [(step, pytest.approx(1 / step)) for step in range(1, NUM_STEPS + 1)]
    assert [item.step for item in events.Scalars("grad_norm")] == [1, 2, 4, 5, 6]
    assert [(item.step, item.value) for item in events.Scalars("score")] == [(3, 3.0), (6, 6.0)]
    assert [(item.step, item.width, item.height) for item in events.Images("validation")] == [(3, 8, 4), (6, 8, 4)]


def test_dvclive_has_the_latest_numbers_while_the_training_runs() -> None:
    need_packages("dvclive")
    seen = []

    def look(number: int) -> None:
        path = Path("tracking/dvclive/toy/metrics.json")
        if path.exists():
            seen.append((number, json.loads(path.read_text())["loss"]))

    _train("dvclive", during=look)
    assert seen == [(number, pytest.approx(1 / number)) for number in range(1, NUM_STEPS)]
    folder = Path("tracking/dvclive/toy")
    latest = {"loss": pytest.approx(1 / 6), "grad_norm": 2.0, "score": 6.0}
    assert json.loads((folder / "metrics.json").read_text()) | {"step": 6} == latest | {"step": 6}
    rows = (folder / "plots/metrics/score.tsv").read_text().split()
    assert rows == ["step", "score", "3", "3.0", "6", "6.0"]
    assert YAML(typ="safe").load(Path("tracking/dvc.yaml")) == {
        "metrics": ["dvclive/toy/metrics.json"],
        "plots": [{"dvclive/toy/plots/metrics": {"x": "step"}}],
    }
    assert {path.name for path in (folder / "plots/images/validation").iterdir()} == {"3.png", "6.png"}


def test_wandb_has_losses_scores_and_pictures_offline() -> None:
    (records,) = need_packages("wandb.proto.wandb_internal_pb2")
    _train("wandb")
    (path,) = Path("tracking/wandb").rglob("offline-run-*/*.wandb")
    rows = list(_wandb_rows(path, records))
    losses = [(row["_step"], row["loss"]) for row in rows]
    assert losses == [(step, pytest.approx(1 / step)) for step in range(1, NUM_STEPS + 1)]
    assert [row["_step"] for row in rows if "grad_norm" in row] == [1, 2, 4, 5, 6]
    assert [(row["_step"], row["score"]) for row in rows if "score" in row] == [(3, 3.0), (6, 6.0)]
    pictures = [row["validation/filenames"][0] for row in rows if "validation/filenames" in row]
    assert [Image.open(path.parent / "files" / name).size for name in pictures] == [(8, 4), (8, 4)]


def _wandb_rows(path: Path, records: Any) -> Iterator[dict[str, Any]]:
    """What a run logged at each step, from a file in LevelDB's log format after a header of seven bytes."""
    content, at, record = path.read_bytes(), 7, b""
    while at < len(content):
        if (left := LOG_BLOCK - at % LOG_BLOCK) < LOG_HEADER.size:
            at += left
            continue
        _, length, kind = LOG_HEADER.unpack_from(content, at)
        at += LOG_HEADER.size
        record += content[at : at + length]
        at += length
        if kind in LAST_PARTS:
            parsed, record = records.Record.FromString(record), b""
            if parsed.HasField("history"):
                items = parsed.history.item
                yield {
                    "/".join([item.key] if item.key else item.nested_key): json.loads(item.value_json) for item in items
                }


def test_none_writes_nothing() -> None:
    _train("none")
    assert not Path("tracking").exists()


def test_a_missing_package_names_the_remedy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "tensorboard", None)
    monkeypatch.setattr(sys, "path", [])
    with pytest.raises(StageError, match=r"tracking: tensorboard needs the package tensorboard, .* or use none"):
        _train("tensorboard")
