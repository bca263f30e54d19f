"""Every figure that evaluation writes is explained, and by the right entry."""

from pathlib import Path

import pytest

from naruto_add.catalog import CATALOG, describe, headline, interval


@pytest.mark.parametrize(
    ("name", "entry"),
    [
        ("fd_efficientnet_lite1", "fd_*"),
        ("pd_efficientnet_lite1", "pd_*"),
        ("pd_efficientnet_lite1_diversity", "pd_*_diversity"),
        ("lpips_diversity", "lpips_diversity"),
        ("attribute_accuracy", "attribute_accuracy"),
        ("attribute_accuracy_item", "attribute_accuracy_*"),
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
    names = [metric.name.replace("*", "<network>") for metric in CATALOG if metric.name != "attribute_accuracy_*"]
    assert [name for name in names if name not in page] == []


def test_entries_are_unique_and_say_something() -> None:
    assert len({metric.name for metric in CATALOG}) == len(CATALOG)
    assert all(metric.meaning for metric in CATALOG)


def test_headline_is_in_the_catalogues_order_without_companions() -> None:
    names = {"latency_ms", "fid", "fid_low", "fid_high", "fid_n_small", "density", "zeta", "alpha", "recall"}
    assert headline(names) == ["fid", "recall", "latency_ms", "alpha", "zeta"]


def test_interval_needs_both_ends() -> None:
    assert interval({"a.fid_low": 1.0, "a.fid_high": 2.0}, "a.fid") == (1.0, 2.0)
    assert interval({"a.fid_low": 1.0}, "a.fid") is None
