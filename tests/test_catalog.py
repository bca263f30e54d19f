"""Every figure that evaluation writes is explained, and by the right entry."""

import re
from pathlib import Path

import pytest

from naruto_add.catalog import CATALOG, describe, headline, interval, notes

OF_ATTRIBUTES = ("attribute_accuracy_*", "num_named_*")


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
def test_names_find_their_entry(name: str, entry: str) -> None:
    found = describe(name)
    assert found is not None
    assert found.name == entry


@pytest.mark.parametrize("name", ["kd_x_low", "kd_x_high", "fid_n_small", "of_another_project"])
def test_companions_and_strangers_have_none(name: str) -> None:
    assert describe(name) is None


def test_every_entry_is_in_the_documentation() -> None:
    page = (Path(__file__).parent.parent / "docs" / "figures.md").read_text("utf-8")
    rows = [line.split("|") for line in page.splitlines() if line.startswith("| `")]
    cells = [cell for row in rows for cell in (row[1], row[-2])]  # the name, and the N of others
    documented = {name.rpartition(".")[2] for cell in cells for name in re.findall("`([^`]+)`", cell)}
    names = [
        metric.name.replace("*", "<attribute>" if metric.name in OF_ATTRIBUTES else "<network>") for metric in CATALOG
    ]
    assert [name for name in names if name not in documented] == []


def test_entries_are_unique_and_say_something() -> None:
    assert len({metric.name for metric in CATALOG}) == len(CATALOG)
    assert all(metric.meaning for metric in CATALOG)


def test_headline_is_in_the_catalogues_order_without_companions() -> None:
    names = {"latency_ms", "fid", "fid_low", "fid_high", "fid_n_small", "density", "zeta", "alpha", "recall"}
    assert headline(names) == ["fid", "recall", "latency_ms", "alpha", "zeta"]


def test_interval_needs_both_ends() -> None:
    assert interval({"a.fid_low": 1.0, "a.fid_high": 2.0}, "a.fid") == (1.0, 2.0)
    assert interval({"a.fid_low": 1.0}, "a.fid") is None


def test_the_noise_floor_stands_beside_the_distance_to_the_teacher() -> None:
    names = headline({"pd_x", "pd_x_noise_floor", "fd_x", "latency_ms"})
    assert names == ["fd_x", "pd_x_noise_floor", "pd_x", "latency_ms"]


def test_the_classifiers_own_accuracy_is_told_where_there_is_one() -> None:
    own = {f"real.attribute_accuracy{end}": value for end, value in (("", 0.975), ("_low", 0.96), ("_high", 0.9875))}
    (note,) = notes(own, ())
    assert note.endswith("reaches 0.975 (0.96 to 0.9875) on real held-out pictures.")
    kinds = {"real.attribute_accuracy_item": 0.92, "real.attribute_accuracy_headwear_present": 0.98}
    (note,) = notes(own | kinds, ())
    assert note.endswith("on real held-out pictures, 0.92 of item, its lowest.")
    assert notes({"teacher.attribute_accuracy": 0.5}, ["teacher"]) == []


def test_few_pictures_are_told_of_the_subjects_that_are_shown() -> None:
    metrics = {"teacher.fid": 9.0, "teacher.fid_n_small": 1, "base.fid": 9.0, "base.fid_n_small": 0}
    assert notes(metrics, ["base"]) == []
    assert notes(metrics, ["base", "teacher"]) == [
        "† of fewer than 2,048 pictures: compare only with figures of as many."
    ]
