"""How a stage runs: progress, locks, checkpoint folders, and errors that become one message.

The one place that reads the environment and the working directory.
"""

import ctypes
import os
import select
import shutil
import signal
import sys
import threading
from collections.abc import Callable, Generator, Iterable, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, TypeVar

from filelock import FileLock, Timeout
from tqdm import tqdm

from naruto_add.files import content_hash
from naruto_add.params import Params, ParamsError, load_params

T = TypeVar("T")

QUIET_SECONDS = 30.0


class StageError(RuntimeError):
    """A stage that cannot go on; the message is for the user and names the remedy."""


def progress(iterable: Iterable[T], *, desc: str, total: int | None = None, initial: int = 0) -> "tqdm[T]":
    """A bar with an ETA on a terminal; in a log, a line every half minute at most."""
    on_terminal = sys.stderr.isatty()
    return tqdm(
        iterable,
        desc=desc,
        total=total,
        initial=initial,
        mininterval=0.2 if on_terminal else QUIET_SECONDS,
        maxinterval=10.0 if on_terminal else QUIET_SECONDS,
        ascii=not on_terminal,
    )


def checkpoint_dir(stage: str, *, params: Sequence[Any], deps: Sequence[Path]) -> Path:
    """The ignored folder where a stage keeps checkpoints and caches of exactly this configuration.

    Its key covers the values in `params`, the content of `deps` and the code that this process has imported from the
    project. It lies under the user's repository even when DVC runs the stage in a temporary copy ($DVC_ROOT names it).
    """
    key = content_hash(stage, [_plain(item) for item in params], *_loaded_code(), *deps)
    return _checkpoints() / stage / key


def local_folder(model: str) -> list[Path]:
    """The model's folder; nothing for one on the hub, which its revision pins."""
    return [Path(model)] if Path(model).is_dir() else []


def shared_cache_dir(name: str, *modules: str) -> Path:
    """Where all configurations keep what depends on these modules and those below them, or else on all loaded code.

    Entries name what else they depend on.
    """
    return _checkpoints() / name / content_hash(*_loaded_code(*modules))


def _checkpoints() -> Path:
    return Path(os.environ.get("DVC_ROOT") or Path.cwd()) / ".checkpoints"


def _loaded_code(*modules: str) -> list[Path]:
    """The project's own modules that are imported now, which a stage's script has done before it calls anything.

    Where modules are named, these and those below them alone.
    """
    tops = tuple(f"{module}." for module in modules or ("naruto_add", "stages"))
    names = (name for name in sys.modules if f"{name}.".startswith(tops))
    files = (getattr(sys.modules[name], "__file__", None) for name in names)
    return sorted({Path(file) for file in files if file})


def _plain(item: Any) -> Any:
    return item.model_dump() if hasattr(item, "model_dump") else item


@contextmanager
def exclusive(folder: Path) -> Generator[None]:
    """Hold `folder` for this run; on success its checkpoints (*.pt) go, for nothing is left to resume.

    Of the processes that `accelerate launch` started, the first holds it for all. Raises StageError at once where
    another run holds it.
    """
    if os.environ.get("RANK", "0") != "0":
        yield
        return
    folder.mkdir(parents=True, exist_ok=True)
    lock = FileLock(folder / "lock")
    try:
        lock.acquire(timeout=0)
    except Timeout:
        raise StageError(
            f"{folder}: another process trains this very configuration; wait for it, or stop it, and run again"
        ) from None
    for stale in folder.glob(".*-*"):  # of a process that was killed while it saved
        shutil.rmtree(stale, ignore_errors=True)
    try:
        yield
        for checkpoint in folder.glob("*.pt"):
            checkpoint.unlink()
    finally:
        lock.release()


def run_stage(stage: Callable[[], None]) -> None:
    """Run a stage's body: user errors become one message, and Ctrl-C exits non-zero."""
    try:
        stage()
    except (StageError, ParamsError, FileNotFoundError) as error:
        if os.environ.get("NARUTO_ADD_TRACEBACK"):
            raise
        sys.exit(f"error: {error}")
    except KeyboardInterrupt:
        sys.exit("interrupted: the next `dvc repro` runs this stage again; a training goes on from its last checkpoint")


def _die_with_parent() -> None:
    """Killing dvc alone must not leave its training child running beside the next one (Linux only)."""
    if sys.platform != "linux":
        return
    pr_set_pdeathsig = 1
    parent = os.getppid()
    ctypes.CDLL(None).prctl(pr_set_pdeathsig, signal.SIGTERM)
    if os.getppid() != parent:  # it died before we asked
        sys.exit("error: the process that started this one has ended")
    if pid := _dvc_behind_shell(parent):
        threading.Thread(target=_end_with, args=(pid,), daemon=True).start()


def _dvc_behind_shell(parent: int) -> int | None:
    """DVC's process where a shell that it runs commands by stays in between, as dash does and bash does not."""
    shell = Path(f"/proc/{parent}")
    try:
        if (shell / "cmdline").read_text().split("\0")[1:2] != ["-c"]:
            return None
        pid = int((shell / "stat").read_text().rpartition(")")[2].split()[1])
        arguments = Path(f"/proc/{pid}/cmdline").read_text().split("\0")
    except OSError:  # /proc may hide other users' processes
        return None
    return pid if any(Path(item).name == "dvc" for item in arguments) else None


def _end_with(pid: int) -> None:
    """Wait for the end of that process, then end like this one's own parent had died."""
    with suppress(ProcessLookupError):  # it is gone already
        waiting = select.poll()
        waiting.register(os.pidfd_open(pid), select.POLLIN)
        waiting.poll()
    os.kill(os.getpid(), signal.SIGTERM)


def prepare_process(params_path: Path) -> None:
    """End with DVC, and keep hub libraries offline where parameters name nothing on a hub.

    To be called before anything that takes seconds to import: hub libraries read their setting only then, and until
    then an orphan would go unnoticed.
    """
    _die_with_parent()
    try:
        params = load_params(params_path)
    except ParamsError:
        return  # the stage itself will say so
    if not _needs_hub(params):
        os.environ.setdefault("HF_HUB_OFFLINE", "1")


def _needs_hub(params: Params) -> bool:
    """Whether anything that the parameters name is to be had on a hub only."""
    add = params.add
    is_adversarial = add.method == "adversarial"
    models = {params.base.model}
    if params.evaluate.clip_score != "off":
        models.add(params.evaluate.clip_score)
    if is_adversarial and add.image_text_weight and add.image_text_network != "caption_match":
        models.add(add.image_text_network)
    return (
        not all(Path(item).is_dir() for item in models)
        or params.ingest.source == "hub"
        or params.evaluate.features in {"clip", "dinov2"}
        or "dinov2_small" in (add.pixel_backbone, add.score_backbone)
    )
