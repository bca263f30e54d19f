"""Work does not start on a disk that is too small for it."""

import shutil
from pathlib import Path

import pytest

from naruto_add.runtime.disk import require_free
from naruto_add.runtime.errors import StageError


def test_what_fits_is_accepted_also_in_a_folder_that_does_not_exist_yet(tmp_path: Path) -> None:
    require_free(tmp_path / "not" / "yet", 1000, purpose="checkpoints")


def test_what_does_not_fit_is_refused_with_both_sizes_and_a_remedy(tmp_path: Path) -> None:
    free = shutil.disk_usage(tmp_path).free
    with pytest.raises(StageError, match=r"checkpoints need [\d.]+ GB, but [\d.]+ GB are free; free some disk"):
        require_free(tmp_path, free + 10**9, purpose="checkpoints")
