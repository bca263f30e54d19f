"""The trial of two experiments at once."""

import shutil
import time

from tests.project import Project
from tests.soak.trial import Run, SoakError

WAIT_SECONDS = 900.0


def two_at_once(run: Run) -> None:
    """Two experiments that train at once write what each writes alone."""
    at_once, alone = (_locked(run, jobs) for jobs in (2, 1))
    if at_once != alone or len(set(at_once)) != 2:
        raise SoakError("two experiments at once differ from one after the other")
    run.counts["experiments at once"] += 2


def _locked(run: Run, jobs: int) -> list[str]:
    """dvc.lock of both experiments, from a queue that runs so many at a time."""
    twin = run.finished.copy(run.root.with_name(f"{run.root.name}_{jobs}"))
    twin.dvc("exp", "run", "--queue", "-n", "soak", "-S", "add.adv_weight=0.05,0.1", "add")
    twin.dvc("queue", "start", "--jobs", str(jobs))
    most = 0
    give_up_at = time.monotonic() + WAIT_SECONDS
    while "Queued" in (status := twin.dvc("queue", "status")) or "Running" in status:
        for _ in range(20):
            most = max(most, _num_training(twin))
            time.sleep(0.1)
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


def _num_training(project: Project) -> int:
    """The number of trainings with a checkpoint; a training that ends deletes its own."""
    return len(list(project.root.glob(".checkpoints/add/*/add.pt")))
