"""A stage in a process that is forked from one that has imported the libraries: starting takes a tenth of the time."""

import contextlib
import fcntl
import gc
import importlib
import os
import resource
import runpy
import signal
import sys
import time
import traceback
from collections.abc import Mapping
from pathlib import Path
from typing import NoReturn

from tests.project import SANDBOX, Project

_LIBRARIES = (
    "accelerate", "diffusers", "filelock", "jaxtyping", "peft", "pydantic", "ruamel.yaml", "safetensors.torch",
    "torch", "torch.nn.utils.parametrizations", "torchvision.transforms.functional", "tqdm",
    "transformers.models.clip.modeling_clip", "transformers.models.clip.tokenization_clip", "diffusers.schedulers",
    "diffusers.models.autoencoders.autoencoder_kl", "diffusers.models.unets.unet_2d_condition",
    "diffusers.pipelines.stable_diffusion.pipeline_stable_diffusion",
)  # fmt: skip
POLL_SECONDS = 0.01
_PIPE_BYTES = 1 << 20
"""More than a stage writes between two polls; a full pipe would stop it."""


def preload() -> None:
    """Import what stages import, except this project's own code, which each copy of the project has."""
    os.environ["HF_HUB_OFFLINE"] = "1"  # stages set it before they import the hub's library
    os.environ["OMP_NUM_THREADS"] = "1"  # a process with threads could not be forked
    for name in _LIBRARIES:
        importlib.import_module(name)
    from diffusers import StableDiffusionPipeline  # noqa: F401 (diffusers imports its parts when they are used)

    assert not any(name.partition(".")[0] == "naruto_add" for name in sys.modules)
    gc.collect()
    gc.freeze()


class StageProcess:
    """`python -m stages.STAGE` in this project, in a process group of its own; SIGKILL ends it as any other.

    Its output goes to a pipe, which a limit on the size of files does not concern.
    """

    def __init__(
        self, project: Project, stage: str, *, variables: Mapping[str, str] = {}, max_file_bytes: int | None = None
    ) -> None:
        """Start it with these variables; files that it writes can have at most so many bytes."""
        self.status: int | None = None
        environment = {**project.environment(), **variables}
        self._output = bytearray()
        self._pipe, end = os.pipe()
        fcntl.fcntl(end, fcntl.F_SETPIPE_SZ, _PIPE_BYTES)
        os.set_blocking(self._pipe, False)
        self.pid = os.fork()
        if self.pid == 0:
            self._run(project.root, stage, environment, max_file_bytes, end)
        os.close(end)

    def poll(self) -> int | None:
        """The exit status, which is negative for a signal, or None while it runs."""
        if self.status is None:
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            self._read()
            if pid:
                self.status = os.waitstatus_to_exitcode(status)
                os.close(self._pipe)
        return self.status

    def wait(self, seconds: float) -> None:
        """Return when it has ended or the time is over."""
        until = time.monotonic() + seconds
        while self.poll() is None and time.monotonic() < until:
            time.sleep(POLL_SECONDS)

    def finish(self) -> tuple[int, str]:
        """The exit status and the output."""
        while self.poll() is None:
            time.sleep(POLL_SECONDS)
        assert self.status is not None
        return self.status, self._output.decode(errors="replace")

    def signal(self, number: signal.Signals) -> None:
        """Send the signal, unless it has ended."""
        if self.poll() is None:
            os.killpg(self.pid, number)

    def _read(self) -> None:
        with contextlib.suppress(BlockingIOError):
            while part := os.read(self._pipe, _PIPE_BYTES):
                self._output += part

    def _run(
        self, root: Path, stage: str, environment: Mapping[str, str], max_file_bytes: int | None, output: int
    ) -> NoReturn:
        status = 1
        try:
            os.setsid()
            signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background jobs ignore it
            os.dup2(output, 1)
            os.dup2(output, 2)
            os.chdir(root)
            os.environ.clear()
            os.environ.update(environment)
            sys.argv, sys.path[0] = [stage], str(root)
            for name in [name for name in sys.modules if name.partition(".")[0] in ("tests", "naruto_add", "stages")]:
                del sys.modules[name]
            runpy.run_path(str(SANDBOX / "sitecustomize.py"))
            if max_file_bytes is not None:
                _, most = resource.getrlimit(resource.RLIMIT_FSIZE)
                resource.setrlimit(resource.RLIMIT_FSIZE, (max_file_bytes, most))
            runpy.run_module(f"stages.{stage}", run_name="__main__", alter_sys=True)
            status = 0
        except SystemExit as end:
            status = end.code if isinstance(end.code, int) else int(end.code is not None)
            if isinstance(end.code, str):
                _write(end.code)
        except BaseException:  # noqa: BLE001 (what Python itself would print)
            _write(traceback.format_exc())
        os._exit(status)


def _write(text: str) -> None:
    sys.stdout.flush()
    os.write(2, f"{text}\n".encode(errors="replace"))
