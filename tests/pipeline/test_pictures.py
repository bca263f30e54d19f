"""The manifest of the pictures changes if and only if they do, and what is not a file is named and not read."""

import json
import os
import socket
from pathlib import Path
from typing import Any

import pytest

from naruto_add.config.load import load_params
from naruto_add.pipeline.pictures import write_picture_manifest
from naruto_add.runtime.errors import StageError

ROOT = Path(__file__).parents[2]
INGEST = load_params(ROOT / "params.yaml").ingest


def _manifest(out: Path, path: Path, source: str = "folder") -> dict[str, Any]:
    out.mkdir(exist_ok=True)
    write_picture_manifest(
        INGEST.model_copy(update={"source": source, "path": str(path)}),
        manifest_path=out / "pictures.json",
        cache_path=out / "cache.json",
    )
    manifest: dict[str, Any] = json.loads((out / "pictures.json").read_text())
    return manifest


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    folder = tmp_path / "pictures"
    (folder / "sub").mkdir(parents=True)
    for name in ("a.png", "a.txt", "sub/b.png", ".hidden"):
        (folder / name).write_text(name)
    return folder


def test_a_manifest_lists_files_by_content(pictures: Path, tmp_path: Path) -> None:
    before = _manifest(tmp_path / "out", pictures)
    assert list(before) == ["a.png", "a.txt", "sub/b.png"]
    (pictures / "c.png").write_text("new")
    after = _manifest(tmp_path / "out", pictures)
    assert after == {**before, "c.png": after["c.png"]}
    (pictures / "a.txt").write_text("another caption")
    changed = _manifest(tmp_path / "out", pictures)
    assert [name for name in changed if changed[name] != after[name]] == ["a.txt"]


def test_unchanged_files_are_not_read_again(pictures: Path, tmp_path: Path) -> None:
    before = _manifest(tmp_path / "out", pictures)
    status = (pictures / "a.png").stat()
    (pictures / "a.png").write_text("A.PNG")  # the same size, and below the same time
    os.utime(pictures / "a.png", ns=(status.st_atime_ns, status.st_mtime_ns))
    assert _manifest(tmp_path / "out", pictures) == before


def test_what_is_not_a_file_is_named_and_not_read(
    pictures: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "outside.png").touch()
    (tmp_path / "outside").mkdir()
    os.mkfifo(pictures / "pipe.png")
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(os.path.relpath(pictures / "socket"))  # an absolute name may be too long
    (pictures / "nothing.png").symlink_to("missing.png")
    (pictures / "circle.png").symlink_to("circle.png")
    (pictures / "device.png").symlink_to("/dev/null")
    (pictures / "out.png").symlink_to(tmp_path / "outside.png")
    (pictures / "folder").symlink_to(tmp_path / "outside")
    (pictures / "in.png").symlink_to("a.png")
    expected = {
        "pipe.png": "a named pipe",
        "socket": "a socket",
        "nothing.png": "a broken link",
        "circle.png": "a broken link",
        "device.png": "a link to a device",
        "out.png": "a link out of the folder",
        "folder": "a link to a folder",
    }
    manifest = _manifest(tmp_path / "out", pictures)
    shown = capsys.readouterr().err
    for name, kind in expected.items():
        assert manifest[name].startswith(f"not read: {kind}"), name
        assert f"{name} is not read, because it is {kind}" in shown, name
    assert manifest.keys() == {"a.png", "a.txt", "sub/b.png", "in.png", *expected}


def test_names_that_are_not_utf_8_are_listed_and_shown_without_raw_bytes(
    pictures: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    raw = os.fsencode(pictures) + b"/caf\xe9\x1b[2J.png"
    os.close(os.open(raw, os.O_CREAT | os.O_WRONLY))
    os.mkfifo(os.fsencode(pictures) + b"/p\xe9\x1b[2J")
    manifest = _manifest(tmp_path / "out", pictures)
    assert os.fsdecode(b"caf\xe9\x1b[2J.png") in manifest
    assert "\x1b" not in capsys.readouterr().err


def test_a_parquet_file_is_listed_alone(tmp_path: Path) -> None:
    (tmp_path / "a.parquet").write_text("rows")
    (tmp_path / "b.parquet").write_text("rows")
    assert list(_manifest(tmp_path / "out", tmp_path / "a.parquet", "parquet")) == ["a.parquet"]


@pytest.mark.parametrize("source", ["shinobi", "hub"])
def test_sources_that_the_parameters_identify_need_no_path(tmp_path: Path, source: str) -> None:
    assert _manifest(tmp_path / "out", tmp_path / "missing", source) == {"source": source}


@pytest.mark.parametrize(
    ("name", "problem"),
    [
        ("missing", "cannot be found"),
        ("pipe", "is a named pipe"),
        ("nothing", "cannot be found"),
        (".", "overlaps with"),
        ("data", "overlaps with"),
        ("data/dataset/images", "overlaps with"),
    ],
)
def test_paths_that_hold_no_pictures_are_errors(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, problem: str
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("data/dataset/images").mkdir(parents=True)
    os.mkfifo("pipe")
    Path("nothing").symlink_to("nowhere")
    with pytest.raises(StageError, match=f"^ingest.path: '{name}' {problem}"):
        _manifest(tmp_path / "out", Path(name))


def test_many_things_that_are_not_files_are_counted(
    tmp_path: Path, pictures: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for number in range(50):
        (pictures / f"link{number}").symlink_to("nowhere")
    _manifest(tmp_path / "out", pictures)
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) < 30
    assert "30 further" in lines[-1]
