"""DVC experiments by name: queue them, run the queue, and read what they left, by the commands `dvc` and `git`.

All of it in the folder that holds dvc.yaml. The library does not import DVC; a command of its own may run it.
"""

import json
import re
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML

from naruto_add import paths
from naruto_add.ablation.variants import PREFIX, Experiment, with_settings
from naruto_add.runtime import StageError

TARGET = "evaluate"
UPSTREAM = ("ingest", "teacher", "student", "add", TARGET)
"""The stages that an experiment's figures come from."""
SECTIONS = ("base", "sampling", *UPSTREAM)
CODE = ("src/", "stages/", "base/")
DVC = (sys.executable, "-m", "dvc")
TASK = re.compile(
    rf"^(?P<task>[0-9a-f]{{7,}}) +(?P<name>{PREFIX}-\S+) .* (?P<status>Queued|Running|Success|Failed)$", re.MULTILINE
)
NUM_LINES = 3
"""Of an experiment's log that are told where it failed without a message of ours."""


def find_revision(experiment: Experiment, values: Mapping[str, Any], *, any_code: bool) -> str | None:
    """The newest commit of an experiment with this name whose parameters are `values` with its settings, or None.

    Its code must be the working tree's unless `any_code`. Parameters of later stages (samples, export) may differ.
    """
    refs = _run("git", "for-each-ref", "--sort=-committerdate", "--format=%(objectname)", _reference(experiment.name))
    expected = with_settings(values, experiment.settings)
    for revision in refs.split():
        stored = YAML(typ="safe").load(_run("git", "show", f"{revision}:{paths.PARAMS.as_posix()}"))
        if _counted(stored) == _counted(expected) and (any_code or has_this_code(revision)):
            return revision
    return None


def has_this_code(revision: str) -> bool:
    """Whether the code that its figures depend on is the working tree's."""
    stages = YAML(typ="safe").load(Path("dvc.yaml"))["stages"]
    deps = {dep for stage in UPSTREAM for dep in stages[stage]["deps"] if dep.startswith(CODE)}
    command = ["git", "diff", "--quiet", revision, "--", *sorted(deps)]
    return subprocess.run(command, check=False).returncode == 0


def run_experiments(experiments: Sequence[Experiment], *, jobs: int) -> None:
    """Queue these and run the queue to its end; what stands in the queue besides is run too.

    Older experiments of the same names give way. Those that fail leave no experiment and are told by `why_missing`.
    Raises StageError where one of them is running already, and on Ctrl-C.
    """
    _clear([experiment.name for experiment in experiments])
    for experiment in experiments:
        settings = [f"{key}={json.dumps(value)}" for key, value in experiment.settings.items()]
        options = [part for setting in settings for part in ("-S", setting)]
        _run(*DVC, "exp", "run", "--queue", "--name", experiment.name, *options, TARGET)
    try:
        subprocess.run([*DVC, "exp", "run", "--run-all", "--jobs", str(jobs)], check=False)  # what failed is looked for
    except KeyboardInterrupt:
        raise StageError(
            "interrupted, but DVC's queue goes on: `dvc queue status` shows it, `dvc queue stop --kill` ends it"
        ) from None


def read_metrics(revision: str) -> dict[str, float | int]:
    """The experiment's metrics/evaluate.json."""
    metrics: dict[str, float | int] = json.loads(_run("git", "show", f"{revision}:{paths.EVALUATE_METRICS.as_posix()}"))
    return metrics


def fetch(revision: str, out: Path, *, to: Path) -> None:
    """Copy an experiment's out from DVC's cache. Raises StageError where the cache does not hold it."""
    to.parent.mkdir(parents=True, exist_ok=True)
    _run(*DVC, "get", "--quiet", ".", out.as_posix(), "--rev", revision, "--out", str(to))


def why_missing(name: str) -> str:
    """What the log of a failed experiment ends with; where none was run, that."""
    tasks = {found["name"]: found["status"] for found in TASK.finditer(_run(*DVC, "queue", "status"))}
    if name not in tasks:
        return "not run with these parameters and this code"
    if tasks[name] != "Failed":
        return tasks[name].lower()
    log = _run(*DVC, "queue", "logs", name).strip().splitlines()
    ours = [line for line in log if line.startswith("error: ")]
    return " ".join(ours[-1:] or log[-NUM_LINES:])


def _reference(name: str, commit: str = "**") -> str:
    """Where DVC keeps experiments: by the first two and the other digits of the commit that they started from."""
    return f"refs/exps/{commit[:2]}/{commit[2:] or '**'}/{name}"


def _counted(values: Mapping[str, Any]) -> dict[str, Any]:
    return {section: values.get(section) for section in SECTIONS}


def _clear(names: Sequence[str]) -> None:
    """Take tasks and experiments of these names away. Raises StageError where one is running."""
    tasks = [found for found in TASK.finditer(_run(*DVC, "queue", "status")) if found["name"] in names]
    running = [found["name"] for found in tasks if found["status"] == "Running"]
    if running:
        raise StageError(f"{', '.join(running)}: running now; wait, or stop it by `dvc queue kill {running[0]}`")
    if tasks:
        _run(*DVC, "queue", "remove", *(found["task"] for found in tasks))
    head = _run("git", "rev-parse", "HEAD").strip()
    taken = [name for name in names if _run("git", "for-each-ref", _reference(name, head))]
    if taken:
        _run(*DVC, "exp", "remove", *taken)


def _run(*command: str) -> str:
    done = subprocess.run(command, check=False, capture_output=True, text=True)
    if done.returncode:
        raise StageError(f"{' '.join(command)}: {(done.stderr or done.stdout).strip()}")
    return done.stdout
