"""The correlations of ADD's validation score and the Frechet distance that docs/experiments.md states."""

from pathlib import Path

import pytest
from scipy.stats import spearmanr

ROOT = Path(__file__).parent.parent
Row = dict[str, str]


def _rows() -> list[Row]:
    header, *lines = (ROOT / "benchmarks/score_correlation.tsv").read_text("utf-8").splitlines()
    return [dict(zip(header.split("\t"), line.split("\t"), strict=True)) for line in lines]


def _has_adversarial_loss(row: Row) -> bool:
    return not row["training"].startswith("no adversarial loss")


@pytest.mark.parametrize(
    ("rows", "stated"),
    [
        (_rows(), "0.89 over 20 checkpoints of twelve trainings"),
        ([row for row in _rows() if _has_adversarial_loss(row)], "0.82 over the 17 with an adversarial loss"),
    ],
)
def test_the_stated_correlations_are_those_of_the_measured_checkpoints(rows: list[Row], stated: str) -> None:
    text = " ".join((ROOT / "docs/experiments.md").read_text("utf-8").split())
    assert stated in text
    found = spearmanr([float(row["score"]) for row in rows], [float(row["frechet"]) for row in rows]).statistic
    assert f"{found:.2f}" in stated and str(len(rows)) in stated
