"""Work does not start on a disk that is too small for it, and a disk that cannot be written is one message."""

import errno
import os
import resource
import shutil
from collections.abc import Callable, Generator
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from naruto_add.runtime.disk import explained_disk_error, require_free
from naruto_add.runtime.errors import StageError
from naruto_add.runtime.files import new_file, new_folder
from naruto_add.training.checkpoint import Checkpoint


def test_what_fits_is_accepted_also_in_a_folder_that_does_not_exist_yet(tmp_path: Path) -> None:
    require_free(tmp_path / "not" / "yet", 1000, purpose="checkpoints")


def test_what_does_not_fit_is_refused_with_both_sizes_and_a_remedy(tmp_path: Path) -> None:
    free = shutil.disk_usage(tmp_path).free
    with pytest.raises(StageError, match=r"checkpoints need [\d.]+ GiB, but [\d.]+ [GM]iB are free; free some disk"):
        require_free(tmp_path, free + 10**9, purpose="checkpoints")


@contextmanager
def _file_size_limit(num_bytes: int) -> Generator[None]:
    """Within the block, writing a file beyond this size fails as on a full disk, but with another error number."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (num_bytes, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


class _State:
    def __init__(self, size: int) -> None:
        self.values = {"weight": torch.ones(size)}

    def state_dict(self) -> dict[str, torch.Tensor]:
        return self.values

    def load_state_dict(self, values: dict[str, torch.Tensor], /) -> None:
        self.values = values


def _save_checkpoint(folder: Path) -> None:
    Checkpoint(folder / "add.pt", {"weights": _State(100_000)}).save(2)


def _save_tensors(folder: Path) -> None:
    with new_file(folder / "cache.safetensors") as partial:
        save_file({"x": torch.ones(100_000)}, partial)


def _save_text(folder: Path) -> None:
    with new_file(folder / "curve.tsv") as partial:
        partial.write_bytes(b"0" * 100_000)


def _save_folder(folder: Path) -> None:
    with new_folder(folder / "model") as partial, new_file(partial / "weights.safetensors") as weights:
        save_file({"x": torch.ones(100_000)}, weights)


@pytest.mark.parametrize(
    ("write", "name"),
    [
        (_save_checkpoint, "add.pt"),
        (_save_tensors, "cache.safetensors"),
        (_save_text, "curve.tsv"),
        (_save_folder, "model"),
    ],
)
def test_every_kind_of_file_that_does_not_fit_is_one_message_that_names_it_and_leaves_nothing(
    write: Callable[[Path], None], name: str, tmp_path: Path
) -> None:
    with _file_size_limit(20_000), pytest.raises(OSError) as caught:
        write(tmp_path)
    message = str(explained_disk_error(caught.value))
    assert message.startswith(f"{tmp_path / name}: {os.strerror(errno.EFBIG)}; ")
    assert "ulimit -f" in message
    assert "`dvc repro` goes on from there" in message
    assert not list(tmp_path.iterdir())


def test_a_checkpoint_that_does_not_fit_leaves_the_one_before(tmp_path: Path) -> None:
    Checkpoint(tmp_path / "add.pt", {"weights": _State(10)}).save(1)
    with _file_size_limit(20_000), pytest.raises(Exception) as caught:
        _save_checkpoint(tmp_path)
    assert explained_disk_error(caught.value)
    state = _State(0)
    assert Checkpoint(tmp_path / "add.pt", {"weights": state}).load() == 1
    assert state.values["weight"].shape == (10,)


def test_a_read_only_folder_is_one_message_that_names_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The system's error names a temporary folder in it. It is imitated, because root may write everywhere."""

    def refuse(path: str, mode: int = 0) -> None:
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), path)

    monkeypatch.setattr(os, "mkdir", refuse)
    with pytest.raises(PermissionError) as caught:
        _save_text(tmp_path)
    assert str(explained_disk_error(caught.value)).startswith(f"{tmp_path / 'curve.tsv'}: Permission denied; ")


@pytest.mark.parametrize(
    ("number", "remedy"),
    [
        (errno.ENOSPC, "free some disk"),
        (errno.EDQUOT, "raise your quota"),
        (errno.EROFS, "move the project to a disk that can be written"),
        (errno.EACCES, "the permission to read it, or to write in its folder"),
    ],
)
def test_the_message_names_file_problem_remedy_and_what_was_kept(number: int, remedy: str) -> None:
    message = str(explained_disk_error(OSError(number, os.strerror(number), "models/x\x1b[31m")))
    assert message.startswith(f"models/x\\x1b[31m: {os.strerror(number)}; ")
    assert remedy in message
    assert "the checkpoints of this one are kept" in message


def test_another_file_that_cannot_be_read_while_one_is_written_keeps_its_name(tmp_path: Path) -> None:
    with pytest.raises(PermissionError) as caught, new_file(tmp_path / "sheet.png"):
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), "pictures/a.png")
    assert str(explained_disk_error(caught.value)).startswith("pictures/a.png: ")


def test_no_file_is_named_that_the_error_does_not_name() -> None:
    message = str(explained_disk_error(OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))))
    assert message.startswith(f"a file that the error does not name, while working in {Path.cwd()}: ")


def test_other_errors_are_not_explained() -> None:
    assert explained_disk_error(OSError(errno.EIO, "damaged disk")) is None
    assert explained_disk_error(ZeroDivisionError()) is None
