"""Means and standard deviations over seeds, and their table."""

import pytest

from naruto_add.ablation.figures import mean_and_spread, metric_names, quality_of, summarize, table

METRICS = {
    "distilled.fd_efficientnet_lite1": 250.0,
    "distilled.fd_efficientnet_lite1_low": 240.0,
    "distilled.fd_efficientnet_lite1_n_small": 1,
    "distilled.attribute_accuracy": 0.5,
    "distilled.attribute_accuracy_item": 0.25,
    "distilled.pd_efficientnet_lite1": 0.4,
    "distilled.pd_efficientnet_lite1_diversity": 1.125,
    "distilled.latency_ms": 150.0,
    "teacher_few_steps.fd_efficientnet_lite1": 230.0,
}
RUNS = {
    "full": [{"fd_x": 250.0, "attribute_accuracy": 0.5}, {"fd_x": 254.0, "attribute_accuracy": 0.75}],
    "no_warm_up": [{"fd_x": 300.0, "attribute_accuracy": 0.25}],
    "failed": [],
}


def test_quality_leaves_out_other_subjects_costs_and_intervals() -> None:
    assert quality_of("distilled", METRICS) == {
        "fd_efficientnet_lite1": 250.0,
        "attribute_accuracy": 0.5,
        "attribute_accuracy_item": 0.25,
        "pd_efficientnet_lite1": 0.4,
        "pd_efficientnet_lite1_diversity": 1.125,
    }
    assert quality_of("teacher_few_steps", METRICS) == {"fd_efficientnet_lite1": 230.0}


def test_mean_and_sample_standard_deviation_over_seeds() -> None:
    figures = summarize(RUNS)
    assert figures["full.num_seeds"] == 2
    assert figures["full.fd_x.mean"] == pytest.approx(252.0)
    assert figures["full.fd_x.std"] == pytest.approx(8**0.5)


def test_a_single_run_has_no_spread_and_a_variant_without_runs_no_keys() -> None:
    figures = summarize(RUNS)
    assert figures["no_warm_up.fd_x.mean"] == 300.0
    assert "no_warm_up.fd_x.std" not in figures
    assert not [key for key in figures if key.startswith("failed")]


def test_a_metric_that_a_run_lacks_has_no_mean() -> None:
    figures = summarize({"full": [{"fd_x": 1.0, "kd_x": 2.0}, {"fd_x": 1.0}]})
    assert "full.kd_x.mean" not in figures
    assert "full.fd_x.mean" in figures


def test_metrics_are_in_the_catalogs_order_and_diversity_is_last() -> None:
    names = ["pd_x_diversity", "attribute_accuracy", "kd_x", "fd_x", "pd_x"]
    figures = summarize({"full": [dict.fromkeys(names, 1.0)]})
    assert metric_names(figures) == ["fd_x", "kd_x", "attribute_accuracy", "pd_x", "pd_x_diversity"]


def test_table_has_a_row_for_every_variant_with_runs() -> None:
    assert table(summarize(RUNS), list(RUNS)).splitlines() == [
        "| variant    | seeds |    fd_x ↓ | attribute_accuracy ↑ |",
        "| ---------- | ----: | --------: | -------------------: |",
        "| full       |     2 | 252 ± 2.8 |         0.625 ± 0.18 |",
        "| no warm up |     1 |       300 |                 0.25 |",
    ]


def test_without_runs_the_table_has_no_rows() -> None:
    assert table({}, ["full"]).splitlines() == ["| variant | seeds |", "| ------- | ----: |"]


def test_a_missing_mean_is_an_empty_cell() -> None:
    assert mean_and_spread({}, "full.fd_x") == ""
