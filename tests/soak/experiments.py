"""The trial of two experiments at once."""

import shutil
import subprocess
import time

from tests.project import DVC, Project
from tests.soak.process import POLL_SECONDS
from tests.soak.trial import Run, SoakError

WAIT_SECONDS = 1800.0


def two_at_once(run: Run) -> None:
    """Two experiments that train at once write what each writes alone."""
    at_once, alone = (_locked(run, jobs) for jobs in (2, 1))
    if at_once != alone or len(set(at_once)) != 2:
        raise SoakError("two experiments at once differ from one after the other")
    run.counts["experiments at once"] += 2


def _locked(run: Run, jobs: int) -> list[str]:
    """dvc.lock of both experiments, from a queue that runs so many at a time."""
    twin = run.finished.copy(run.root.with_name(f"{run.root.name}_{jobs}"))
    twin.dvc("exp", "run", "--queue", "-n", "soak", "-S", "add.adv_weight=2,5", "add")
    _, most = _watched(twin, "queue", "start", "--jobs", str(jobs))
    give_up_at = time.monotonic() + WAIT_SECONDS
    status = ""
    while "0 active, 0 idle" not in status or "Queued" in status or "Running" in status:
        status, training = _watched(twin, "queue", "status")
        most = max(most, training)
        if time.monotonic() > give_up_at:
            raise SoakError(f"the queue has not ended after {WAIT_SECONDS} s: {status}")
    if status.count("Success") != 2:
        raise SoakError(f"an experiment failed: {status}")
    if most != jobs:
        raise SoakError(f"{most} experiments trained at once, instead of {jobs}")
    names = twin.git("for-each-ref", "--format=%(refname)", "refs/exps").split()
    locked = sorted(twin.git("show", f"{name}:dvc.lock") for name in names if name.endswith(("-1", "-2")))
    shutil.rmtree(twin.root)
    shutil.rmtree(twin.log_dir)
    return locked


def _watched(project: Project, *command: str) -> tuple[str, int]:
    """The output of dvc, and how many trainings had a checkpoint at once until then; one that ends deletes its own.

    The output goes to a file: a pipe stays open until the queue's workers, which inherit it, have ended.
    """
    most = 0
    path = project.log_dir / "queue"
    with path.open("wb") as stream:
        process = subprocess.Popen(
            [*DVC, *command], cwd=project.root, env=project.environment(), stdout=stream, stderr=subprocess.STDOUT
        )
        while process.poll() is None:
            most = max(most, len(list(project.root.glob(".checkpoints/add/*/add.pt"))))
            time.sleep(POLL_SECONDS)
    output = path.read_text(encoding="utf-8")
    if process.returncode:
        raise SoakError(f"dvc {' '.join(command)} failed: {output[-1500:]}")
    return output, most
