"""The correlation of ADD's validation score and the Frechet distance: how it is made, and what the docs state."""

from pathlib import Path

import pytest
from scipy.stats import spearmanr

from benchmarks.score_correlation import Student, students, without_repeated_starts

ROOT = Path(__file__).parent.parent
EVALUATION = {
    "student.fd_efficientnet_lite1": 80.0,
    "student.kd_efficientnet_lite1": 0.08,
    "distilled.fd_efficientnet_lite1": 70.0,
    "distilled.kd_efficientnet_lite1": 0.07,
}
ADD = {"start_score": 7.0, "end_score": 5.5, "best_score": 5.0, "best_step": 80}


@pytest.mark.parametrize(("kept_step", "score"), [(80, 5.0), (160, 5.5)])
def test_the_score_is_that_of_the_weights_that_the_stage_kept(kept_step: int, score: float) -> None:
    start, kept = students("full-0", {**ADD, "kept_step": kept_step}, EVALUATION)

    assert start == Student("full-0", 0, 7.0, 80.0, 0.08)
    assert kept == Student("full-0", kept_step, score, 70.0, 0.07)


def test_a_start_that_two_experiments_share_is_one_row() -> None:
    rows = [*students("a", {**ADD, "kept_step": 80}, EVALUATION), *students("b", {**ADD, "kept_step": 160}, EVALUATION)]

    assert [(row.experiment, row.step) for row in without_repeated_starts(rows)] == [("a", 0), ("a", 80), ("b", 160)]


def test_the_stated_correlations_are_those_of_the_measured_students() -> None:
    header, *lines = (ROOT / "benchmarks/score_correlation.tsv").read_text("utf-8").splitlines()
    rows = [dict(zip(header.split("\t"), line.split("\t"), strict=True)) for line in lines]
    trained = [row for row in rows if int(row["step"]) > 0]

    text = " ".join((ROOT / "docs/experiments.md").read_text("utf-8").split())
    assert f"correlation is {_correlation(rows):.2f} over {len(rows)} students" in text
    assert f"{_correlation(trained):.2f} over the {len(trained)} after ADD" in text


def _correlation(rows: list[dict[str, str]]) -> float:
    return float(spearmanr([float(row["score"]) for row in rows], [float(row["frechet"]) for row in rows]).statistic)
