"""Files are written completely or not at all, and hashes depend on content and names only."""

import os
from pathlib import Path

import pytest

from naruto_add.runtime.files import atomic_write_bytes, content_hash, new_file, new_folder, read_json, write_json


def _fail_in_folder(path: Path) -> None:
    with new_folder(path) as partial:
        (partial / "half").write_text("new")
        raise KeyboardInterrupt


def _fail_in_file(path: Path) -> None:
    with new_file(path) as partial:
        partial.write_text("new")
        raise KeyboardInterrupt


def test_a_new_folder_replaces_the_old_one(tmp_path: Path) -> None:
    folder = tmp_path / "deep" / "out"
    for name in ("old", "new"):
        with new_folder(folder) as partial:
            (partial / name).touch()
    assert [path.name for path in folder.iterdir()] == ["new"]
    assert [path.name for path in folder.parent.iterdir()] == ["out"]


def test_a_failed_folder_keeps_the_old_one(tmp_path: Path) -> None:
    with new_folder(tmp_path / "out") as partial:
        (partial / "whole").touch()
    with pytest.raises(KeyboardInterrupt):
        _fail_in_folder(tmp_path / "out")
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["out", "whole"]


def test_remains_of_a_killed_write_are_deleted_and_other_folders_kept(tmp_path: Path) -> None:
    (tmp_path / ".out-killed").mkdir()
    (tmp_path / ".out-killed" / "half").touch()
    (tmp_path / ".other-running").mkdir()
    with new_folder(tmp_path / "out"):
        pass
    assert sorted(path.name for path in tmp_path.iterdir()) == [".other-running", "out"]


def test_a_failed_file_keeps_the_old_one(tmp_path: Path) -> None:
    atomic_write_bytes(tmp_path / "a.tsv", b"old")
    with pytest.raises(KeyboardInterrupt):
        _fail_in_file(tmp_path / "a.tsv")
    assert [path.name for path in tmp_path.iterdir()] == ["a.tsv"]
    assert (tmp_path / "a.tsv").read_bytes() == b"old"


@pytest.mark.skipif(os.name != "posix", reason="permissions of POSIX")
def test_a_folder_is_readable_by_all_users(tmp_path: Path) -> None:
    with new_folder(tmp_path / "out"):
        pass
    assert (tmp_path / "out").stat().st_mode & 0o777 == 0o755


def test_metrics_are_sorted_and_rounded(tmp_path: Path) -> None:
    write_json(tmp_path / "a.json", {"b": 1 / 3, "a": 1_234_567, "c": "text"})
    assert (tmp_path / "a.json").read_text() == '{\n  "a": 1234567,\n  "b": 0.333333,\n  "c": "text"\n}\n'
    assert read_json(tmp_path / "a.json") == {"a": 1_234_567, "b": 0.333333, "c": "text"}


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_numbers_that_are_not_finite_are_refused_by_key(tmp_path: Path, value: float) -> None:
    with pytest.raises(ValueError, match=r"teacher\.fid: -?(nan|inf) is not a finite number"):
        write_json(tmp_path / "a.json", {"teacher.fid": value})
    assert list(tmp_path.iterdir()) == []


def test_hashes_depend_on_content_names_and_order_only(tmp_path: Path) -> None:
    one, two = tmp_path / "one", tmp_path / "two"
    for folder in (one, two):
        (folder / "sub").mkdir(parents=True)
        (folder / "sub" / "a").write_text("a")
    assert content_hash(one) == content_hash(two)
    (two / "sub" / "__pycache__").mkdir()
    (two / "sub" / "__pycache__" / "a.pyc").touch()
    assert content_hash(one) == content_hash(two)
    (two / "sub" / "a").rename(two / "sub" / "b")
    assert content_hash(one) != content_hash(two)
    assert content_hash("a", "b") != content_hash("b", "a")
    assert content_hash("ab") != content_hash("a", "b")
    assert content_hash({"a": 1, "b": 2}) == content_hash({"b": 2, "a": 1})


def test_a_missing_path_is_reported_with_its_remedy(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"none: no such file or folder; run the stage that makes it"):
        content_hash(tmp_path / "none")
