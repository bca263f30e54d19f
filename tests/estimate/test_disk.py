"""DVC's configuration decides whether results need their space twice."""

from pathlib import Path

import pytest

from naruto_add.estimate.disk import dvc_links_files


@pytest.mark.parametrize(
    ("shared", "local", "expected"),
    [
        ("", "", False),
        ("[core]\n    analytics = false\n    autostage = true\n", "", False),
        ("[core]\n    site_cache_dir = /hardlink\n", "", False),
        ("[cache]\n    type = copy\n", "", False),
        ("[cache]\n    type = copy,hardlink\n", "", False),
        ("[cache]\n    type = reflink,copy\n", "", False),
        ("[cache]\n    type = hardlink\n", "", True),
        ('[cache]\n    type = "reflink, symlink, copy"\n', "", True),
        ("['remote \"storage\"']\n    url = /data/50%\n", "[cache]\n    type = hardlink,copy\n", True),
        ("[cache]\n    type = hardlink\n", "[cache]\n    type = copy\n", False),
    ],
)
def test_files_are_linked_only_if_cache_type_says_so(tmp_path: Path, shared: str, local: str, expected: bool) -> None:
    (tmp_path / ".dvc").mkdir()
    (tmp_path / ".dvc/config").write_text(shared)
    if local:
        (tmp_path / ".dvc/config.local").write_text(local)
    assert dvc_links_files(tmp_path) is expected


def test_a_folder_without_configuration_has_dvcs_default(tmp_path: Path) -> None:
    assert not dvc_links_files(tmp_path)
