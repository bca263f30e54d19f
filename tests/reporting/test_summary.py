"""The summary has the table of metrics and the files that exist."""

import json
from pathlib import Path

import pytest

from naruto_add.config import paths
from naruto_add.reporting.summary import summary
from naruto_add.reporting.tables import metrics_table
from naruto_add.runtime.errors import StageError

METRICS = {"teacher.fd_lite1": 12.25, "distilled.fd_lite1": 13.5, "distilled.fd_lite1_n_small": 1}


def test_it_has_the_table_its_notes_and_the_files_that_exist(tmp_path: Path) -> None:
    (tmp_path / paths.EVALUATE_METRICS).parent.mkdir(parents=True)
    (tmp_path / paths.EVALUATE_METRICS).write_text(json.dumps(METRICS))
    text = summary(tmp_path)
    assert text.startswith(metrics_table(METRICS))
    assert "2,048" in text
    assert "metrics/evaluate.json" in text
    assert "report.html" not in text
    (tmp_path / paths.REPORT).touch()
    assert "report.html" in summary(tmp_path)


def test_it_needs_a_run(tmp_path: Path) -> None:
    with pytest.raises(StageError, match=r"evaluate\.json: no such file; run the pipeline first"):
        summary(tmp_path)


@pytest.mark.parametrize("content", [b"", b'{"teacher.fd_lite1": 12.', b"[]", b"\xff\xfe"])
def test_damaged_metrics_are_named_with_the_remedy(tmp_path: Path, content: bytes) -> None:
    (tmp_path / paths.EVALUATE_METRICS).parent.mkdir(parents=True)
    (tmp_path / paths.EVALUATE_METRICS).write_bytes(content)
    with pytest.raises(StageError, match=r"evaluate\.json: this file is damaged \(.*\); delete it and run `dvc repro`"):
        summary(tmp_path)
