"""The summary shows every subject's figures in columns and only places that exist."""

import json
import re
from dataclasses import replace
from pathlib import Path

import pytest

from naruto_add import paths
from naruto_add.model_card import CardFacts, metrics_table, model_card
from naruto_add.summary import main, summary

METRICS = {
    "teacher.fd_lite1": 12.3456789,
    "distilled.fd_lite1": 13.5,
    "teacher.latency_ms": 1500.25,
    "distilled.latency_ms": 31.5,
    "distilled.of_another_project": 4_200_000,
    "distilled.fd_lite1_low": 11.0,
    "distilled.fd_lite1_high": 16.25,
    "distilled.fd_lite1_n_small": 1,
    "real.fd_lite1": 2.0,
    "real.attribute_accuracy": 0.975,
}


def test_table_has_a_column_for_every_subject() -> None:
    assert metrics_table(METRICS).splitlines() == [
        "| metric | better | teacher | distilled |",
        "|---|---|---:|---:|",
        "| fd_lite1 † | lower | 12.35 | 13.5 (11 to 16.25) |",
        "| latency_ms | lower | 1,500 | 31.5 |",
        "| of_another_project |  |  | 4,200,000 |",
    ]


def test_summary_names_places_that_are_there(tmp_path: Path) -> None:
    (tmp_path / paths.EVALUATE_METRICS).parent.mkdir(parents=True)
    (tmp_path / paths.EVALUATE_METRICS).write_text(json.dumps(METRICS))
    text = summary(tmp_path)
    assert "reaches 0.975 on real held-out pictures" in text
    assert "† of fewer than 2,048 pictures" in text
    assert "report.html" not in text
    (tmp_path / paths.REPORT).touch()
    assert "report.html" in summary(tmp_path)
    assert re.search(r"latency_ms +lower +1,500 +31\.5\n", text)
    assert "metrics/evaluate.json" in text
    assert "models/export" not in text


def test_the_model_card_tells_the_classifiers_accuracy() -> None:
    facts = CardFacts(
        base_model="base/model",
        source="shinobi",
        hub_dataset="",
        method="adversarial",
        timesteps=[999],
        prompt="a man",
        precision="fp32",
        metrics=METRICS,
    )
    assert "reaches 0.975 on real held-out pictures" in model_card(facts)
    assert "real held-out" not in model_card(replace(facts, metrics={}))


def test_before_the_first_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit, match="run the pipeline first"):
        main()
