"""An export is uploaded whole to a stand-in of the hub; without a token or with a wrong name, it says what to do."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.cli.run import run_error, run_ok

STUB = Path(__file__).with_name("hub_stub.py")
Done = subprocess.CompletedProcess[str]
FILES = {
    "README.md": b"---\nlicense: apache-2.0\n---\n# A model\n",
    "model_index.json": b"{}",
    "unet/diffusion_pytorch_model.safetensors": bytes(range(256)) * 40,
    "images/example-0.png": b"\x89PNG",
    "lora/README.md": b"# A LoRA\n",
    "lora/lora_kohya.safetensors": b"weights",
    "single_file/student.safetensors": b"student",
    "onnx/unet.onnx": b"network",
    "demo.html": b"<!DOCTYPE html>",
}


@pytest.fixture
def export_dir(tmp_path: Path) -> Path:
    for name, content in FILES.items():
        path = tmp_path / "models/export" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    return tmp_path / "models/export"


@pytest.fixture
def hub(tmp_path: Path) -> Iterator[tuple[str, Path]]:
    """The address of the stand-in, and its folder."""
    folder = tmp_path / "hub"
    folder.mkdir()
    process = subprocess.Popen([sys.executable, str(STUB), str(folder)], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    yield f"http://127.0.0.1:{process.stdout.readline().strip()}", folder
    process.kill()
    process.communicate()


def _publish(address: str, export_dir: Path, *arguments: str, token: str = "good") -> Done:
    """In a process of its own, because huggingface_hub reads its address at import. Xet has no stand-in here."""
    environment = os.environ | {
        "HF_ENDPOINT": address,
        "HF_TOKEN": token,
        "HF_HUB_DISABLE_XET": "1",
        "HF_HUB_DISABLE_PROGRESS_BARS": "1",
        "HF_HUB_DISABLE_IMPLICIT_TOKEN": "0",
        "HF_HOME": str(export_dir.parent / "hf"),
    }
    code = "from naruto_add.cli.main import main; main()"
    command = [sys.executable, "-c", code, "publish", *arguments, "--folder", str(export_dir)]
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120)


def _uploaded(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_the_whole_folder_is_uploaded_in_one_commit(hub: tuple[str, Path], export_dir: Path) -> None:
    address, folder = hub
    done = _publish(address, export_dir, "me/my-student", "--private")
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == f"{address}/me/my-student/commit/{'1' * 40}"
    assert _uploaded(folder / "me/my-student").items() >= FILES.items()
    requests = [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]
    assert next(item for item in requests if item["path"] == "api/repos/create")["visibility"] == "private"
    assert sum("/commit/" in item["path"] for item in requests) == 1


def test_the_lora_alone_has_its_own_card(hub: tuple[str, Path], export_dir: Path) -> None:
    address, folder = hub
    done = _publish(address, export_dir, "me/my-lora", "--lora")
    assert done.returncode == 0, done.stderr
    uploaded = _uploaded(folder / "me/my-lora")
    assert uploaded["README.md"] == b"# A LoRA\n"
    assert "model_index.json" not in uploaded


@pytest.mark.parametrize(
    ("repository", "token", "message"),
    [
        ("me/x", "", "this machine has no access token of the hub; .* run `hf auth login`, or set HF_TOKEN"),
        ("me/x", "bad", "me/x: the upload failed: .*401.*; check the token's write access"),
        ("me/x-forbidden", "good", "me/x-forbidden: the upload failed: 403 Forbidden"),
    ],
)
def test_a_refusal_names_the_remedy(
    repository: str, token: str, message: str, hub: tuple[str, Path], export_dir: Path
) -> None:
    import re

    done = _publish(hub[0], export_dir, repository, token=token)
    assert done.returncode == 1
    assert re.search(message, done.stderr), done.stderr
    assert "Traceback" not in done.stderr
    assert not list(hub[1].rglob("README.md"))


def test_a_dry_run_lists_the_files_and_needs_nothing(export_dir: Path) -> None:
    text = run_ok("publish", "me/my-student", "--dry-run", "--folder", str(export_dir))
    assert {line.split()[-1] for line in text.splitlines()} >= set(FILES)
    assert f"{len(FILES)} files" in text
    assert "nothing was uploaded to me/my-student" in text


def test_an_export_without_a_lora_says_how_to_make_one(export_dir: Path) -> None:
    (export_dir / "lora/README.md").unlink()
    message = run_error("publish", "me/x", "--lora", "--dry-run", "--folder", str(export_dir))
    assert "is an export without a LoRA; add lora to export.formats and run `dvc repro export`" in message
    message = run_error("publish", "me/x", "--lora", "--dry-run", "--folder", str(export_dir / "none"))
    assert "is not an export" in message


def test_wrong_names_and_folders_are_messages(export_dir: Path, tmp_path: Path) -> None:
    for name in ("alone", "a/b/c", "me/..", "me/white space"):
        assert f"OWNER/NAME: {name!r} is not a repository of a hub" in run_error(
            "publish", name, "--dry-run", "--folder", str(export_dir)
        )
    assert "has no README.md" in run_error("publish", "me/x", "--dry-run", "--folder", str(tmp_path / "none"))
