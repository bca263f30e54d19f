"""The catalog: every metric finds its entry, and tables find their metrics and notes."""

import re
from pathlib import Path

import pytest

from naruto_add.evaluation.catalog import CATALOG, describe, headline, interval, notes, number

ATTRIBUTE_ENTRIES = ("attribute_accuracy_*", "num_named_*")


@pytest.mark.parametrize(
    ("name", "entry"),
    [
        ("fd_efficientnet_lite1", "fd_*"),
        ("pd_efficientnet_lite1", "pd_*"),
        ("pd_efficientnet_lite1_diversity", "pd_*_diversity"),
        ("lpips_diversity", "lpips_diversity"),
        ("attribute_accuracy", "attribute_accuracy"),
        ("attribute_accuracy_item", "attribute_accuracy_*"),
        ("attribute_accuracy_headwear_present", "attribute_accuracy_headwear_present"),
        ("pd_efficientnet_lite1_noise_floor", "pd_*_noise_floor"),
        ("num_named_attributes", "num_named_attributes"),
        ("num_named_item", "num_named_*"),
    ],
)
def test_metrics_find_their_entry(name: str, entry: str) -> None:
    found = describe(name)
    assert found is not None
    assert found.name == entry


@pytest.mark.parametrize("name", ["kd_x_low", "kd_x_high", "fid_n_small", "of_another_project"])
def test_companions_and_unknown_names_have_no_entry(name: str) -> None:
    assert describe(name) is None


def test_docs_have_a_row_for_every_entry() -> None:
    page = (Path(__file__).parents[2] / "docs" / "figures.md").read_text("utf-8")
    rows = [line.split("|") for line in page.splitlines() if line.startswith("| `")]
    cells = [cell for row in rows for cell in (row[1], row[-2])]  # the metric, and the number of pictures of others
    documented = {name.rpartition(".")[2] for cell in cells for name in re.findall("`([^`]+)`", cell)}
    names = [
        metric.name.replace("*", "<attribute>" if metric.name in ATTRIBUTE_ENTRIES else "<network>")
        for metric in CATALOG
    ]
    assert [name for name in names if name not in documented] == []


def test_entries_have_different_names_and_meanings() -> None:
    assert len({metric.name for metric in CATALOG}) == len(CATALOG)
    assert len({metric.meaning for metric in CATALOG} - {""}) == len(CATALOG)


def test_headline_metrics_are_in_the_order_of_the_catalog_without_companions() -> None:
    names = {"latency_ms", "fid", "fid_low", "fid_high", "fid_n_small", "density", "zeta", "alpha", "recall"}
    assert headline(names) == ["fid", "recall", "latency_ms", "alpha", "zeta"]


def test_the_noise_floor_is_next_to_the_distance_to_the_teacher() -> None:
    names = headline({"pd_x", "pd_x_noise_floor", "fd_x", "latency_ms"})
    assert names == ["fd_x", "pd_x_noise_floor", "pd_x", "latency_ms"]


def test_an_interval_needs_both_ends() -> None:
    assert interval({"a.fid_low": 1.0, "a.fid_high": 2.0}, "a.fid") == (1.0, 2.0)
    assert interval({"a.fid_low": 1.0}, "a.fid") is None


@pytest.mark.parametrize(
    ("value", "text"), [(0.123456, "0.1235"), (12345.6, "12,346"), (7, "7"), (7.0, "7"), (-0.00012346, "-0.0001235")]
)
def test_numbers_have_four_significant_digits_or_are_whole(value: float, text: str) -> None:
    assert number(value) == text


def test_a_note_has_the_classifiers_accuracy_on_real_pictures_and_its_lowest() -> None:
    overall = {
        "real.attribute_accuracy": 0.975,
        "real.attribute_accuracy_low": 0.96,
        "real.attribute_accuracy_high": 0.9875,
    }
    (note,) = notes(overall, ())
    assert "0.975 (0.96 to 0.9875)" in note
    parts = {"real.attribute_accuracy_item": 0.92, "real.attribute_accuracy_headwear_present": 0.98}
    (note,) = notes(overall | parts, ())
    assert "0.92 for item" in note
    assert "0.98 " not in note


def test_there_is_no_note_without_a_classifier() -> None:
    assert notes({"teacher.attribute_accuracy": 0.5}, ["teacher"]) == []


def test_few_pictures_are_noted_if_a_shown_subject_has_the_flag() -> None:
    metrics = {"teacher.fid": 9.0, "teacher.fid_n_small": 1, "base.fid": 9.0, "base.fid_n_small": 0}
    assert notes(metrics, ["base"]) == []
    (note,) = notes(metrics, ["base", "teacher"])
    assert note.startswith("†")
    assert "2,048" in note
