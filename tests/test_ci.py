"""`.ci/run` goes on without npm's registry, and stops at any other failure of npm; make and npm are stand-ins."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
NO_REGISTRY = "npm error code ENOTFOUND\nnpm error network request to the registry failed"
OTHER_LOCK = "npm error code EUSAGE\nnpm error `npm ci` can only install packages when both files are in sync"
TARGETS = ["install", "lint", "types", "contracts", "test", "test-extras", "pipeline"]


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A folder with the script, in which `make` notes its targets, and `npm` what it is asked for."""
    (tmp_path / ".ci").mkdir()
    (tmp_path / "demo").mkdir()
    shutil.copy2(ROOT / ".ci/run", tmp_path / ".ci/run")
    _program(tmp_path / "bin/make", 'echo "$2" >>made')
    _program(tmp_path / "bin/chromium", "")
    return tmp_path


def _program(path: Path, code: str) -> None:
    path.parent.mkdir(exist_ok=True)
    path.write_text(f"#!/bin/sh\n{code}\n")
    path.chmod(0o755)


def _npm(project: Path, *, ci: str = "", build_status: int = 0) -> None:
    """`npm ci` prints this text and fails if there is one; `npm run build` ends with this status."""
    install = f"cat <<'END'\n{ci}\nEND\nexit 1" if ci else "exit 0"
    _program(project / "bin/npm", f'echo "$1" >>../asked\n[ "$1" = run ] && exit {build_status}\n{install}')


def _run(project: Path) -> tuple[int, str, list[str]]:
    """The status, the output, and the targets that were made."""
    path = f"{project / 'bin'}{os.pathsep}{os.environ['PATH']}"
    done = subprocess.run(
        ["bash", ".ci/run"],
        cwd=project,
        env={**os.environ, "PATH": path},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    made = project / "made"
    return done.returncode, done.stdout, made.read_text().split() if made.exists() else []


def test_the_page_is_built_and_everything_is_checked(project: Path) -> None:
    _npm(project)
    status, _, made = _run(project)
    assert (status, made) == (0, TARGETS)
    assert (project / "asked").read_text().split() == ["ci", "run"]


def test_without_the_registry_the_rest_is_checked_and_the_reason_is_shown(project: Path) -> None:
    _npm(project, ci=NO_REGISTRY)
    status, output, made = _run(project)
    assert (status, made) == (0, TARGETS)
    assert NO_REGISTRY in output
    assert "tests of the page are skipped" in output


def test_a_lock_file_that_disagrees_fails_and_is_shown(project: Path) -> None:
    _npm(project, ci=OTHER_LOCK)
    status, output, made = _run(project)
    assert (status, made) == (1, [])
    assert OTHER_LOCK in output


def test_a_build_that_fails_fails(project: Path) -> None:
    _npm(project, build_status=3)
    status, _, made = _run(project)
    assert (status, made) == (3, [])
