"""A stage's process ends with its parent."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import psutil
import pytest

ROOT = Path(__file__).parents[2]


@pytest.mark.skipif(sys.platform != "linux", reason="the parent-death signal exists on Linux only")
def test_a_process_ends_when_its_parent_is_killed(tmp_path: Path) -> None:
    child = (
        "import time; from pathlib import Path; from naruto_add.runtime.process import terminate_with_parent\n"
        "terminate_with_parent(); Path('started').touch(); time.sleep(600)"
    )
    parent = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {child!r}])"
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "src")}
    process = subprocess.Popen([sys.executable, "-c", parent], cwd=tmp_path, env=environment)
    try:
        _wait_until((tmp_path / "started").exists)
        (stage,) = psutil.Process(process.pid).children()
        process.send_signal(signal.SIGKILL)
        process.wait()
        _wait_until(lambda: not stage.is_running() or stage.status() == psutil.STATUS_ZOMBIE)
    finally:
        process.kill()


def _wait_until(condition: Any, *, seconds: float = 60.0) -> None:
    give_up_at = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < give_up_at
        time.sleep(0.02)
