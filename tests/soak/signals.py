"""Trials that end a stage, or its DVC, by a signal."""

import signal
import time

from tests.project import DVC, Project
from tests.soak.process import POLL_SECONDS
from tests.soak.trial import (
    INTERRUPTED,
    TRAINED,
    Run,
    SoakError,
    after_saving,
    any_moment,
    is_saved,
    partial,
    require_interrupted,
    while_saving,
)


def kill(run: Run) -> None:
    """Kill the stage five times: at random moments, after a checkpoint, and while one is written."""
    for project in run.attempts():
        num_kills = 0
        for wait in (any_moment, while_saving, any_moment, after_saving, while_saving):
            old = set(partial(project, run.stage))
            process = run.start(project)
            wait(run, project, process)
            process.signal(signal.SIGKILL)
            status, output = process.finish()
            if status == 0:
                break
            if status != -signal.SIGKILL:
                raise SoakError(f"it ended before it was killed, with status {status}: {output[-1500:]}")
            num_kills += 1
            run.counts["kills"] += 1
            run.counts["kills after saving"] += is_saved(project, run.stage)
            run.counts["kills while saving"] += bool(set(partial(project, run.stage)) - old)
        if num_kills:
            if status:
                run.end(project, goes_on_from=run.progress(project))
            else:
                run.compare(project)
            return


def terminate(run: Run) -> None:
    """SIGTERM after something was saved; the stage must end as documented and go on from there."""
    _interrupt(run, signal.SIGTERM)


def ctrl_c(run: Run) -> None:
    """As SIGTERM, with the signal that a terminal sends at Ctrl-C."""
    _interrupt(run, signal.SIGINT)


def _interrupt(run: Run, number: signal.Signals) -> None:
    for project in run.attempts():
        process = run.start(project)
        after_saving(run, project, process)
        process.signal(number)
        status, output = process.finish()
        if status == 0 or run.is_ended(project):
            continue
        require_interrupted(run, number, status, output)
        run.counts[number.name] += 1
        run.end(project, goes_on_from=run.progress(project))
        return


def dvc_killed(run: Run) -> None:
    """SIGKILL to `dvc repro`: the stage saves and ends by itself, and the next `dvc repro` goes on from there."""
    for project in run.attempts():
        process = project.start(*DVC, "repro", "--single-item", run.stage)
        while process.poll() is None and not is_saved(project, run.stage):
            time.sleep(POLL_SECONDS)
        process.kill()
        output = process.communicate()[0]  # returns when the stage has closed its output too
        if _has_results(project, run.stage) or run.is_ended(project):
            continue
        if run.stage in TRAINED and INTERRUPTED not in output:
            raise SoakError(f"the stage did not say that it was interrupted: {output[-1500:]}")
        run.counts["dvc killed"] += 1
        before = run.progress(project)
        run.require_went_on(project, before, project.dvc("repro", "--single-item", run.stage))
        run.compare(project)
        return


def _has_results(project: Project, stage: str) -> bool:
    """Whether the stage has written its first output, a folder of weights or metrics, which it writes when it ends."""
    return project.declared(stage)[0].exists()
