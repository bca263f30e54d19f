"""A checkpoint restores exactly what was saved; a damaged one is refused before any state is changed."""

import resource
from pathlib import Path
from typing import Any

import pytest
import torch

from naruto_add.runtime.errors import StageError
from naruto_add.training.checkpoint import Checkpoint


class _State:
    def __init__(self, value: float) -> None:
        self.values: dict[str, Any] = {"weight": torch.full((3, 5), value), "steps": 7, "names": ["a", None], "at": 0.5}

    def state_dict(self) -> dict[str, Any]:
        return self.values

    def load_state_dict(self, state_dict: dict[str, Any], /) -> None:
        self.values = state_dict


def _saved(folder: Path) -> Path:
    path = folder / "teacher.pt"
    Checkpoint(path, {"lora": _State(1.0)}).save(12)
    return path


def test_the_saved_state_is_restored(tmp_path: Path) -> None:
    state = _State(0.0)
    assert Checkpoint(_saved(tmp_path), {"lora": state}).load() == 12
    assert torch.equal(state.values["weight"], torch.ones(3, 5))
    assert (state.values["steps"], state.values["names"], state.values["at"]) == (7, ["a", None], 0.5)


def test_every_flipped_byte_is_refused_or_changes_nothing(tmp_path: Path) -> None:
    path = _saved(tmp_path)
    content = path.read_bytes()
    num_refused = 0
    for position in range(0, len(content), 7):
        path.write_bytes(content[:position] + bytes([content[position] ^ 0x10]) + content[position + 1 :])
        state = _State(0.0)
        try:
            Checkpoint(path, {"lora": state}).load()
        except StageError:
            num_refused += 1
        is_refused = torch.equal(state.values["weight"], torch.zeros(3, 5))
        assert is_refused or torch.equal(state.values["weight"], torch.ones(3, 5))
    assert num_refused > 10


@pytest.mark.parametrize("content", [b"", b"PK", b"\x80\x02}q\x00."])
def test_an_empty_truncated_or_foreign_checkpoint_is_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "teacher.pt"
    path.write_bytes(content)
    message = (
        r"teacher\.pt: this checkpoint is damaged .*; delete the \*\.pt files .*, which trains this stage from its"
    )
    with pytest.raises(StageError, match=message):
        Checkpoint(path, {"lora": _State(0.0)}).load()


def test_what_rarely_changes_is_written_only_when_it_changed(tmp_path: Path) -> None:
    often, rarely = _State(1.0), _State(2.0)
    checkpoint = Checkpoint(tmp_path / "student.pt", {"student": often, "best": rarely}, rarely_changed=["best"])
    checkpoint.save(1)
    (first,) = tmp_path.glob("student.best-*.pt")
    written = first.stat().st_mtime_ns
    often.values["weight"] = torch.full((3, 5), 3.0)
    checkpoint.save(2)
    assert [path.stat().st_mtime_ns for path in tmp_path.glob("student.best-*.pt")] == [written]
    rarely.values["weight"] = torch.full((3, 5), 4.0)
    checkpoint.save(3)
    assert len(list(tmp_path.glob("student.best-*.pt"))) == 2  # the checkpoint before needs the first
    checkpoint.save(4)
    (last,) = tmp_path.glob("student.best-*.pt")
    assert last != first

    loaded = {"student": _State(0.0), "best": _State(0.0)}
    assert Checkpoint(tmp_path / "student.pt", loaded, rarely_changed=["best"]).load() == 4
    assert [item.values["weight"].unique().item() for item in loaded.values()] == [3.0, 4.0]


@pytest.mark.parametrize("is_short", [False, True])
def test_without_space_for_three_checkpoints_the_oldest_is_deleted_before_the_next_is_written(
    tmp_path: Path, is_short: bool
) -> None:
    path, margin_bytes = tmp_path / "student.pt", 10**18 if is_short else 0
    states = {"student": _State(0.0), "best": _State(0.0)}
    checkpoint = Checkpoint(path, states, rarely_changed=["best"], margin_bytes=margin_bytes)
    for step in (1, 2, 3):
        for factor, state in enumerate(states.values(), start=1):
            state.values = _State(float(factor * step)).values
        if step < 3:
            checkpoint.save(step)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100, hard))  # nothing can be written now
    try:
        with pytest.raises(OSError):
            checkpoint.save(3)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert len(list(tmp_path.glob("student*.pt"))) == (2 if is_short else 4)  # each with its best weights
    assert _loaded(path) == (2, 2.0, 4.0)
    checkpoint.save(3)
    assert _loaded(path) == (3, 3.0, 6.0)
    path.unlink()
    assert _loaded(path) == (2, 2.0, 4.0)


def test_a_damaged_checkpoint_is_what_is_deleted_if_space_is_short(tmp_path: Path) -> None:
    path = tmp_path / "student.pt"
    _save_steps(path, 1, 2)
    _damage(path, "truncated")
    states = {"student": _State(0.0), "best": _State(0.0)}
    checkpoint = Checkpoint(path, states, rarely_changed=["best"], margin_bytes=10**18)
    assert checkpoint.load() == 1
    checkpoint.save(2)
    path.unlink()
    assert _loaded(path) == (1, 1.0, 10.0)


def test_a_missing_or_damaged_part_is_refused_before_any_state_is_changed(tmp_path: Path) -> None:
    states = {"student": _State(1.0), "best": _State(2.0)}
    Checkpoint(tmp_path / "student.pt", states, rarely_changed=["best"]).save(1)
    (part,) = tmp_path.glob("student.best-*.pt")
    for content in (part.read_bytes()[:-30], None):
        part.unlink()
        if content is not None:
            part.write_bytes(content)
        loaded = {"student": _State(0.0), "best": _State(0.0)}
        with pytest.raises(StageError, match=r"student\.best-.*is damaged"):
            Checkpoint(tmp_path / "student.pt", loaded, rarely_changed=["best"]).load()
        assert loaded["student"].values["weight"].eq(0).all()


def test_an_interruption_between_the_two_files_leaves_the_old_checkpoint_whole(tmp_path: Path) -> None:
    """New best weights do not replace the old ones' file, which stays until the file that names them is replaced."""
    states = {"student": _State(1.0), "best": _State(2.0)}
    path = tmp_path / "student.pt"
    Checkpoint(path, states, rarely_changed=["best"]).save(1)
    old = {file.name: file.read_bytes() for file in tmp_path.glob("*.pt")}
    states["best"].values["weight"] = torch.full((3, 5), 9.0)
    Checkpoint(path, states, rarely_changed=["best"]).save(2)
    for name, content in old.items():  # as if the process had been killed before the second save replaced student.pt
        (tmp_path / name).write_bytes(content)
    loaded = {"student": _State(0.0), "best": _State(0.0)}
    assert Checkpoint(path, loaded, rarely_changed=["best"]).load() == 1
    assert loaded["best"].values["weight"].eq(2).all()


@pytest.mark.parametrize("damage", ["truncated", "flipped", "deleted", "its best weights flipped"])
def test_training_goes_on_from_the_checkpoint_before_a_damaged_one(
    tmp_path: Path, damage: str, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "student.pt"
    _save_steps(path, 1, 2)
    (best,) = set(tmp_path.glob("student.best-*.pt")) - {_best_of(tmp_path / "student.previous.pt")}
    _damage(best if damage.startswith("its") else path, damage)

    resumed = {"student": _State(0.0), "best": _State(0.0)}
    checkpoint = Checkpoint(path, resumed, rarely_changed=["best"])
    assert checkpoint.load() == 1
    assert [item.values["weight"].unique().item() for item in resumed.values()] == [1.0, 10.0]
    assert "goes on from the checkpoint before it, after step 1, and repeats the steps since" in capsys.readouterr().err

    resumed["student"].values = _State(2.0).values
    resumed["best"].values = _State(20.0).values
    checkpoint.save(2)  # must not keep the damaged file as the checkpoint before, nor trust the damaged best weights
    assert _loaded(path) == (2, 2.0, 20.0)
    path.unlink()
    assert _loaded(path) == (1, 1.0, 10.0)


def test_two_damaged_checkpoints_are_refused_before_any_state_is_changed(tmp_path: Path) -> None:
    path = tmp_path / "student.pt"
    _save_steps(path, 1, 2, 3)
    for name in ("student.pt", "student.previous.pt"):
        _damage(tmp_path / name, "truncated")
    with pytest.raises(StageError, match=r"student\.previous\.pt: this checkpoint is damaged .* from its first step"):
        Checkpoint(path, {}).load()


def _save_steps(path: Path, *steps: int) -> None:
    """A checkpoint after each of these steps, whose values are the step and ten times the step."""
    states = {"student": _State(0.0), "best": _State(0.0)}
    checkpoint = Checkpoint(path, states, rarely_changed=["best"])
    for step in steps:
        states["student"].values = _State(float(step)).values
        states["best"].values = _State(10.0 * step).values
        checkpoint.save(step)


def _loaded(path: Path) -> tuple[int | None, float, float]:
    states = {"student": _State(0.0), "best": _State(0.0)}
    num_done = Checkpoint(path, states, rarely_changed=["best"]).load()
    student, best = (float(item.values["weight"][0, 0]) for item in states.values())
    return num_done, student, best


def _best_of(path: Path) -> Path:
    digest = torch.load(path, weights_only=True)["apart"]["best"]
    return path.with_name(f"student.best-{digest}.pt")


def _damage(path: Path, damage: str) -> None:
    content = bytearray(path.read_bytes())
    if damage == "deleted":
        path.unlink()
    elif damage == "truncated":
        path.write_bytes(content[: len(content) // 2])
    else:
        position = bytes(content).index(torch.load(path, weights_only=True)["hash"].encode())
        content[position] ^= 1
        path.write_bytes(content)
