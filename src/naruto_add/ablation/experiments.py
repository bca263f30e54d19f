"""DVC experiments by name: queue and run them, and read their results, through the commands `dvc` and `git`.

All functions work in the current folder, which holds dvc.yaml. The library does not import DVC; it runs the command.
"""

import json
import re
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML

from naruto_add.ablation.variants import PREFIX, Experiment, with_settings
from naruto_add.config import paths
from naruto_add.runtime.errors import StageError

TARGET = "evaluate"
UPSTREAM = ("ingest", "teacher", "student", "add", TARGET)
"""The stages that an experiment's metrics depend on."""
SECTIONS = ("base", "sampling", *UPSTREAM)
"""The sections of params.yaml that an experiment's metrics depend on."""
CODE = ("src/", "stages/")
OTHER_CODE = (str(paths.PACKAGES), "base/model")
"""Files other than code that can change metrics: versions of packages, and the embedded base model."""
DVC = (sys.executable, "-m", "dvc")
TASK = re.compile(
    rf"^(?P<task>[0-9a-f]{{7,}}) +(?P<name>{PREFIX}-\S+) .* (?P<status>Queued|Running|Success|Failed)$", re.MULTILINE
)
"""A line of `dvc queue status`."""
NUM_LINES = 3
"""Lines that are quoted from the end of a failed experiment's log if it has no line `error: ...`."""


def find_revision(experiment: Experiment, values: Mapping[str, Any], *, any_code: bool) -> str | None:
    """The newest commit of an experiment of this name that ran with `values` and the experiment's settings, or None.

    Unless `any_code`, its code must equal the working tree's. Sections of later stages (samples, export) may differ.
    """
    refs = _run("git", "for-each-ref", "--sort=-committerdate", "--format=%(objectname)", _reference(experiment.name))
    expected = with_settings(values, experiment.settings)
    for revision in refs.split():
        stored = YAML(typ="safe").load(_run("git", "show", f"{revision}:{paths.PARAMS.as_posix()}"))
        if _relevant(stored) == _relevant(expected) and (any_code or has_same_code(revision)):
            return revision
    return None


def has_same_code(revision: str) -> bool:
    """Whether the code that metrics depend on is the same in this commit and in the working tree."""
    stages = YAML(typ="safe").load(Path("dvc.yaml"))["stages"]
    code = {dep for stage in UPSTREAM for dep in stages[stage]["deps"] if dep.startswith(CODE)}
    command = ["git", "diff", "--quiet", revision, "--", *sorted(code), *OTHER_CODE]
    return subprocess.run(command, check=False).returncode == 0


def run_experiments(experiments: Sequence[Experiment], *, jobs: int) -> None:
    """Queue the experiments and run the whole queue, `jobs` at a time; other tasks in the queue are run too.

    Existing experiments of the same names are removed first. An experiment that fails does not exist afterwards;
    `why_missing` returns its error. Raises StageError if one of them is already running, and on Ctrl-C.
    """
    _remove([experiment.name for experiment in experiments])
    for experiment in experiments:
        settings = [f"{key}={json.dumps(value)}" for key, value in experiment.settings.items()]
        options = [part for setting in settings for part in ("-S", setting)]
        _run(*DVC, "exp", "run", "--queue", "--name", experiment.name, *options, TARGET)
    try:
        subprocess.run([*DVC, "exp", "run", "--run-all", "--jobs", str(jobs)], check=False)  # failures are found later
    except KeyboardInterrupt:
        raise StageError(
            "interrupted, but DVC's queue still runs: `dvc queue status` shows it, `dvc queue stop --kill` stops it"
        ) from None


def read_metrics(revision: str, metrics_path: Path) -> dict[str, Any]:
    """The metrics of an experiment that this file holds, such as `paths.EVALUATE_METRICS`."""
    metrics: dict[str, Any] = json.loads(_run("git", "show", f"{revision}:{metrics_path.as_posix()}"))
    return metrics


def fetch(revision: str, out: Path, *, to: Path) -> None:
    """Copy an output of an experiment from DVC's cache to a new path. Raises StageError if the cache lacks it."""
    to.parent.mkdir(parents=True, exist_ok=True)
    _run(*DVC, "get", "--quiet", ".", out.as_posix(), "--rev", revision, "--out", str(to))


def why_missing(name: str) -> str:
    """Why there is no such experiment: the error that ended it, its state in the queue, or that it was not run."""
    tasks = {task["name"]: task["status"] for task in _tasks()}
    if name not in tasks:
        return "not run with these parameters and this code"
    if tasks[name] != "Failed":
        return tasks[name].lower()
    log = _run(*DVC, "queue", "logs", name).strip().splitlines()
    errors = [line for line in log if line.startswith("error: ")]
    return " ".join(errors[-1:] or log[-NUM_LINES:])


def _reference(name: str, commit: str = "**") -> str:
    """The git reference of an experiment that started from `commit`; the default is a pattern for every commit."""
    return f"refs/exps/{commit[:2]}/{commit[2:] or '**'}/{name}"


def _relevant(values: Mapping[str, Any]) -> dict[str, Any]:
    return {section: values.get(section) for section in SECTIONS}


def _remove(names: Sequence[str]) -> None:
    """Remove tasks and experiments of these names. Raises StageError if one is running."""
    tasks = [task for task in _tasks() if task["name"] in names]
    running = [task["name"] for task in tasks if task["status"] == "Running"]
    if running:
        raise StageError(
            f"{', '.join(running)}: already running; wait for it, or stop it with `dvc queue kill {running[0]}`"
        )
    if tasks:
        _run(*DVC, "queue", "remove", *(task["task"] for task in tasks))
    head = _run("git", "rev-parse", "HEAD").strip()
    existing = [name for name in names if _run("git", "for-each-ref", _reference(name, head))]
    if existing:
        _run(*DVC, "exp", "remove", *existing)


def _tasks() -> list[re.Match[str]]:
    return list(TASK.finditer(_run(*DVC, "queue", "status")))


def _run(*command: str) -> str:
    done = subprocess.run(command, check=False, capture_output=True, text=True)
    if done.returncode:
        raise StageError(f"{' '.join(command)}: {(done.stderr or done.stdout).strip()}")
    return done.stdout
