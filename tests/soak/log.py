"""The log of the trials: which are still valid for the present code, what is demanded of them, and the table."""

import hashlib
import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.project import ROOT, SANDBOX, Project
from tests.soak.trial import STAGES, TRAINED, Trial

SHARED = ("tests/soak/process.py", "tests/soak/trial.py", "tests/project.py", "tests/sandbox/sitecustomize.py")
"""The code of all trials."""
Row = Mapping[str, Any]


@dataclass(frozen=True)
class Demand:
    """How often something must have been done to each of the stages, and in all."""

    count: str
    kind: str
    per_stage: int
    total: int
    stages: Sequence[str] = STAGES


DEMANDS = (
    Demand("kills", "kill", 4, 30),
    Demand("kills after saving", "kill", 2, 15),
    Demand("kills while saving", "kill", 1, 5),
    Demand("SIGTERM", "terminate", 1, 4),
    Demand("SIGINT", "ctrl_c", 1, 4),
    Demand("dvc killed", "dvc_killed", 1, 4),
    Demand("full at an open", "full_disk_at_each_open", 5, 37, TRAINED),
    Demand("full at an open", "full_disk_at_each_open", 3, 3, ("evaluate",)),  # it opens only these itself
    Demand("file too large", "file_size_limit", 2, 8),
    Demand("file system full", "filled_tmpfs", 3, 12),
    Demand("caches truncated", "damaged_caches", 1, 4),
    Demand("caches flipped", "damaged_caches", 1, 4),
    Demand("checkpoint files truncated", "damaged_checkpoints", 4, 12, TRAINED),
    Demand("checkpoint files flipped", "damaged_checkpoints", 4, 12, TRAINED),
    Demand("checkpoint files emptied", "damaged_checkpoints", 4, 12, TRAINED),
    Demand("went on from a checkpoint", "kill", 1, 3, TRAINED),
    Demand("went on with caches", "kill", 1, 4),
    Demand("experiments at once", "two_at_once", 2, 2, ("add",)),
)
"""What `make soak` must have done at least. A trial that does nothing of it has failed."""


def read_rows(log: Path) -> list[dict[str, Any]]:
    """The trials in the log, of any code."""
    return [json.loads(line) for line in log.read_text().splitlines()] if log.exists() else []


def newest(rows: Iterable[Row]) -> list[Row]:
    """The last row of each trial: one that failed and was equal later has not failed."""
    return list({row["trial"]: row for row in rows}.values())


def trial_key(stage: str, finished: Project, module: str) -> str:
    """A hash of all that a trial of the stage depends on: its module, the stage's code, the parameters and the inputs.

    The code of the stage is what it imported in the undisturbed run. So a change of one stage or of one kind of trial
    leaves the other trials valid.
    """
    locked = finished.locked(stage)
    digest = hashlib.blake2b(digest_size=12)
    digest.update(json.dumps([locked.get("params"), locked.get("deps")], sort_keys=True).encode())
    code = sorted(finished.code_used()[stage])
    for path in [*code, *(ROOT / name for name in (module, *SHARED))]:
        digest.update(path.name.encode() + path.read_bytes())
    return digest.hexdigest()


def project_key(changes: Mapping[str, Any]) -> str:
    """A hash of all that the undisturbed run with these changes of its parameters depends on."""
    files = [
        path
        for folder in ("src", "stages")
        for path in (ROOT / folder).rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    ]
    others = ("dvc.yaml", "params.yaml", "packages.yaml", "tests/project.py", "tests/conftest.py")
    digest = hashlib.blake2b(json.dumps(changes).encode(), digest_size=12)
    for path in [*sorted(files), *(ROOT / name for name in others), SANDBOX / "sitecustomize.py"]:
        digest.update(path.relative_to(ROOT).as_posix().encode() + b"\0" + path.read_bytes())
    return digest.hexdigest()


def lacking(rows: Sequence[Row], stages: Sequence[str], kinds: Sequence[str]) -> list[Trial]:
    """A trial of these kinds for each demand on one of these stages that is not met, without `detail`."""
    missing = []
    for demand in (demand for demand in DEMANDS if demand.kind in kinds):
        own = [stage for stage in demand.stages if stage in stages]
        short = [stage for stage in own if _done(rows, demand, stage) < demand.per_stage]
        is_short = set(own) == set(demand.stages) and sum(_done(rows, demand, stage) for stage in own) < demand.total
        missing += [Trial(demand.kind, stage) for stage in short or (own if is_short else [])]
    return list(dict.fromkeys(missing))


def table(rows: Sequence[Row], stages: Sequence[str], kinds: Sequence[str]) -> str:
    """For each kind of trial: trials, failures, and what was done; then what is demanded at least."""
    lines = [f"{'kind':24} {'trials':>6} {'equal':>5} {'failed':>6}  what was done"]
    for kind in dict.fromkeys(row["kind"] for row in rows):
        own = [row for row in rows if row["kind"] == kind]
        failed = sum(bool(row["failure"]) for row in own)
        by_stage = ", ".join(f"{stage} {number}" for stage, number in Counter(row["stage"] for row in own).items())
        did = ", ".join(f"{number} {name}" for name, number in sorted(_counts(own).items()))
        lines.append(f"{kind:24} {len(own):6} {len(own) - failed:5} {failed:6}  {did} ({by_stage})")
    for demand in (demand for demand in DEMANDS if demand.kind in kinds):
        done = {stage: _done(rows, demand, stage) for stage in demand.stages if stage in stages}
        by_stage = ", ".join(f"{stage} {number} of {demand.per_stage}" for stage, number in done.items())
        lines.append(f"{demand.count}: {sum(done.values())} of at least {demand.total} ({by_stage})")
    return "\n".join([*lines, *(f"FAILED {row['trial']}: {row['failure']}" for row in rows if row["failure"])])


def _done(rows: Sequence[Row], demand: Demand, stage: str) -> int:
    """The count of the demand, from trials of its kind on the stage that have not failed."""
    own = [row for row in rows if row["stage"] == stage and row["kind"] == demand.kind and not row["failure"]]
    return _counts(own)[demand.count]


def _counts(rows: Sequence[Row]) -> Counter[str]:
    """The sums of what the trials did."""
    total: Counter[str] = Counter()
    for row in rows:
        total.update(row["counts"])
    return total
