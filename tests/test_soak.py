"""What `make soak` accepts: a disturbance that happened, the documented exits, and trials of the present code."""

import errno
import json
import random
import signal
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from itertools import chain
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
import torch
from safetensors.torch import save_file

from naruto_add.config.schema import Params
from naruto_add.pipeline.stage import run_checked
from naruto_add.runtime.disk import explained_disk_error
from naruto_add.training.checkpoint import Checkpoint
from tests.project import Project
from tests.soak import __main__ as soak
from tests.soak import log
from tests.soak.damage import GOES_ON, damage, damaged_caches, follow, is_same_cache
from tests.soak.disks import KEPT, require_kept, require_written
from tests.soak.log import DEMANDS, lacking
from tests.soak.trial import (
    INTERRUPTED,
    STAGES,
    Progress,
    Run,
    SoakError,
    Trial,
    first_step,
    require_interrupted,
)

KINDS = tuple(soak.TRIALS)


class _Finished:
    """What a key needs of a finished project."""

    def __init__(self, code: Path) -> None:
        self.code, self.params = code, {"params.yaml": {"add.seed": 0}}

    def locked(self, stage: str) -> dict[str, Any]:
        return {"params": self.params, "deps": []}

    def code_used(self) -> dict[str, set[Path]]:
        return {stage: {self.code} for stage in STAGES}


@pytest.fixture
def finished(tmp_path: Path) -> _Finished:
    code = tmp_path / "loop.py"
    code.write_text("x = 1\n")
    return _Finished(code)


def _row(kind: str, stage: str, detail: str = "", *, failure: str = "", **counts: int) -> dict[str, Any]:
    name = Trial(kind, stage, detail).name
    return {"trial": name, "kind": kind, "stage": stage, "failure": failure, "counts": counts}


def _log(own: soak.Soak, *rows: dict[str, Any]) -> None:
    """Append rows of the present code to the log."""
    with own.log.open("a") as stream:
        stream.writelines(json.dumps({**row, "key": own.key(row["kind"], row["stage"])}) + "\n" for row in rows)


def _all_rows(failure: str = "") -> Iterator[dict[str, Any]]:
    """As much as is demanded."""
    for demand in DEMANDS:
        for stage in demand.stages:
            yield _row(demand.kind, stage, failure=failure, **{demand.count: demand.total})


def test_nothing_is_lacking_when_all_demands_are_met_by_trials_that_have_not_failed() -> None:
    assert lacking(list(_all_rows()), STAGES, KINDS) == []
    assert {trial.kind for trial in lacking(list(_all_rows("it differs")), STAGES, KINDS)} == set(KINDS)


@pytest.mark.parametrize("kind", KINDS)
def test_each_kind_is_demanded_of_each_of_its_stages(kind: str) -> None:
    stages = {stage for demand in DEMANDS if demand.kind == kind for stage in demand.stages}
    assert stages
    for missing in stages:
        rows = [row for row in _all_rows() if (row["kind"], row["stage"]) != (kind, missing)]
        assert Trial(kind, missing) in lacking(rows, STAGES, KINDS)


def test_the_last_row_of_a_trial_decides(finished: _Finished, tmp_path: Path) -> None:
    own = soak.Soak(tmp_path, cast("Project", finished), ["add"], ["terminate"])
    _log(own, _row("terminate", "add", failure="it differs", SIGTERM=1))
    assert own.missing() == [Trial("terminate", "add")]
    _log(own, _row("terminate", "add", SIGTERM=1))
    assert own.missing() == []
    assert [row["failure"] for row in own.rows()] == [""]
    _log(own, _row("terminate", "add", failure="it differs again"))
    assert [row["failure"] for row in own.rows()] == ["it differs again"]
    assert len(own.all_rows()) == 3


def test_more_trials_of_what_is_lacking_have_new_numbers_in_every_call(finished: _Finished, tmp_path: Path) -> None:
    numbers = []
    for _ in range(2):  # calls; in each, the kills always come before a checkpoint
        own = soak.Soak(tmp_path, cast("Project", finished), ["add"], ["kill"])
        for trial in chain(own.missing(), own.more()):
            numbers.append(trial.detail)
            _log(own, _row("kill", "add", trial.detail, kills=5))
    assert numbers == [str(number) for number in range(2 + 2 * soak.MAX_MORE)]


@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
def test_every_missing_trial_is_done_once_by_one_of_several_processes(
    finished: _Finished, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    counts = {"terminate": "SIGTERM", "ctrl_c": "SIGINT"}
    for kind, count in counts.items():
        monkeypatch.setitem(soak.TRIALS, kind, lambda run, count=count: run.counts.update([count]))
    own = soak.Soak(tmp_path, cast("Project", finished), STAGES, list(counts))
    _log(own, _row("ctrl_c", "add", SIGINT=1))
    assert not soak.run_all(own, 2, time.monotonic())
    assert len(own.all_rows()) == 1
    assert soak.run_all(own, 2, time.monotonic() + 60.0)
    assert sorted(row["trial"] for row in own.all_rows()) == sorted(
        f"{kind} {stage}" for kind in counts for stage in STAGES
    )
    assert own.missing() == list(own.more()) == []


@pytest.mark.parametrize("did", [[], ["equal outputs"], ["repeated: the stage ended before"]])
def test_a_trial_that_disturbed_nothing_has_failed(
    did: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(soak.TRIALS, "kill", lambda run: run.counts.update(did))
    row = soak.run_trial(Trial("kill", "add"), cast("Project", None), tmp_path / "trial")
    assert row["failure"] == "it disturbed nothing"
    monkeypatch.setitem(soak.TRIALS, "kill", lambda run: run.counts.update(["kills"]))
    assert soak.run_trial(Trial("kill", "add"), cast("Project", None), tmp_path / "trial")["failure"] == ""


def _change_code(finished: _Finished) -> None:
    finished.code.write_text("x = 2\n")


def _change_params(finished: _Finished) -> None:
    finished.params["params.yaml"]["add.seed"] = 1


@pytest.mark.parametrize("change", [_change_code, _change_params])
def test_a_trial_of_other_code_or_parameters_does_not_count(
    change: Callable[[_Finished], None], finished: _Finished, tmp_path: Path
) -> None:
    own = soak.Soak(tmp_path, cast("Project", finished), STAGES, KINDS)
    trial = Trial("kill", "add", "0")
    _log(own, _row("kill", "add", "0"))
    assert len(own.rows()) == 1
    assert trial not in own.missing()
    change(finished)
    own = soak.Soak(tmp_path, cast("Project", finished), STAGES, KINDS)
    assert own.rows() == []
    assert trial in own.missing()


def test_a_trial_depends_on_the_code_of_its_kind_and_of_all_kinds_and_on_no_other(
    finished: _Finished, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("tests/soak/signals.py", "tests/soak/disks.py", *log.SHARED):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("x = 1\n")
    monkeypatch.setattr(log, "ROOT", tmp_path)

    def keys() -> dict[str, str]:
        own = soak.Soak(tmp_path, cast("Project", finished), STAGES, KINDS)
        return {kind: own.key(kind, "add") for kind in ("kill", "ctrl_c", "filled_tmpfs")}

    def changed_by(name: str) -> set[str]:
        before = keys()
        (tmp_path / name).write_text("x = 2\n")
        return {kind for kind, key in keys().items() if key != before[kind]}

    assert changed_by("tests/soak/signals.py") == {"kill", "ctrl_c"}
    assert changed_by("tests/soak/disks.py") == {"filled_tmpfs"}
    for name in log.SHARED:
        assert changed_by(name) == {"kill", "ctrl_c", "filled_tmpfs"}


def _run(stage: str) -> Run:
    return Run(Trial("terminate", stage), cast("Project", None), Path("trial"), random.Random(0), Counter())


@pytest.mark.parametrize(
    ("stage", "number", "status", "output"),
    [
        ("teacher", signal.SIGTERM, 1, f"bar\n{INTERRUPTED}\n"),
        ("evaluate", signal.SIGINT, 1, INTERRUPTED),
        ("evaluate", signal.SIGTERM, -signal.SIGTERM, ""),
    ],
)
def test_the_documented_exits_after_signals(stage: str, number: signal.Signals, status: int, output: str) -> None:
    require_interrupted(_run(stage), number, status, output)


@pytest.mark.parametrize(
    ("stage", "number", "status", "output"),
    [
        ("teacher", signal.SIGTERM, -signal.SIGTERM, ""),
        ("teacher", signal.SIGTERM, 0, INTERRUPTED),
        ("teacher", signal.SIGINT, 1, f"Traceback (most recent call last)\n{INTERRUPTED}"),
        ("add", signal.SIGINT, 1, "error: add.num_steps: wrong"),
        ("evaluate", signal.SIGINT, -signal.SIGINT, ""),
    ],
)
def test_other_exits_after_signals_are_failures(stage: str, number: signal.Signals, status: int, output: str) -> None:
    with pytest.raises(SoakError):
        require_interrupted(_run(stage), number, status, output)


def test_the_first_step_of_a_bar_tells_where_a_training_went_on() -> None:
    bar = "\rteacher:   0%|          | 0/24 [00:00<?, ?it/s]\rteacher:   4%|▍         | 1/24 [00:01<?, ?it/s]"
    assert first_step(bar, "teacher") == 0
    assert first_step("note\nadd:  29%|██▊       | 8/28 [00:00<?, ?it/s]", "add") == 8
    assert first_step("evaluate: timing", "add") is None


def test_damage_flips_one_bit_keeps_half_or_nothing(tmp_path: Path) -> None:
    content = bytes(range(64))
    for how in ("flipped", "truncated", "emptied"):
        path = tmp_path / how
        path.write_bytes(content)
        damage(path, how, random.Random(0))
    flipped = (tmp_path / "flipped").read_bytes()
    assert sum((ours ^ theirs).bit_count() for ours, theirs in zip(flipped, content, strict=True)) == 1
    assert (tmp_path / "truncated").read_bytes() == content[:32]
    assert (tmp_path / "emptied").read_bytes() == b""


@pytest.mark.parametrize("message", ["error: pool.bin: damaged", "error: other.bin: damaged; delete it", "killed"])
def test_a_message_must_name_a_file_and_the_remedy(message: str, tmp_path: Path) -> None:
    (tmp_path / "pool.bin").touch()
    with pytest.raises(SoakError):
        follow(message, tmp_path)
    assert follow("error: pool.bin: damaged; delete it and run again", tmp_path) == tmp_path / "pool.bin"
    assert not (tmp_path / "pool.bin").exists()


def test_the_words_that_the_soak_looks_for_are_those_of_the_messages(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupt(_: Params) -> None:
        raise KeyboardInterrupt

    with pytest.raises(SystemExit) as ended:
        run_checked(interrupt, check=lambda _: None)
    assert ended.value.code == INTERRUPTED
    assert KEPT in str(explained_disk_error(OSError(errno.ENOSPC, "full", "models/teacher")))
    checkpoint = Checkpoint(tmp_path / "add.pt", {})
    for num_done in (1, 2):
        checkpoint.save(num_done)
    damage(tmp_path / "add.pt", "truncated", random.Random(0))
    assert Checkpoint(tmp_path / "add.pt", {}).load() == 1
    assert GOES_ON in capsys.readouterr().err


class _Stage:
    """A project whose stage `evaluate` makes the cache `a`, and `b` of it, and reads `a` only if `b` is not there."""

    def __init__(self, root: Path, fault: str = "") -> None:
        self.root, self.fault = root, fault
        self.folder = root / ".checkpoints/evaluate/key"
        self.folder.mkdir(parents=True)
        self.run()

    def run(self) -> tuple[int, str]:
        if not self._path("b").exists():
            if self._path("a").exists() and (self._path("a").read_bytes() != b"a" * 9 and self.fault != "silent"):
                return 1, self._refusal("a")
            if not self._path("a").exists():
                self._path("a").write_bytes(b"a" * 9)
            self._path("b").write_bytes(b"b" * 9)
        elif self._path("b").read_bytes() != b"b" * 9 and self.fault != "reads what is damaged":
            return 1, self._refusal("a" if self.fault == "blames another" else "b")
        return 0, ""

    def _path(self, name: str) -> Path:
        return self.folder / f"{name}.safetensors"

    def _refusal(self, name: str) -> str:
        return f"error: {self._path(name).relative_to(self.root)}: damaged; delete it and run again"


class _StageRun(Run):
    """A trial of it, without processes."""

    def project(self, *, keeps_caches: bool = False) -> Any:
        assert keeps_caches
        return _Stage(self.root, cast("_Stage", self.finished).fault)

    def start(self, project: Any, **_: Any) -> Any:
        return SimpleNamespace(finish=project.run)

    def end(self, project: Any, **_: Any) -> None:
        assert project.run() == (0, "")

    def compare(self, project: Any) -> None:
        pass


def _damage_caches(folder: Path, fault: str) -> "Counter[str]":
    counts: Counter[str] = Counter()
    finished = cast("Project", _Stage(folder / "finished", fault))
    (folder / "trial_log").mkdir()
    damaged_caches(
        _StageRun(Trial("damaged_caches", "evaluate", "flipped"), finished, folder / "trial", random.Random(0), counts)
    )
    return counts


def test_every_cache_is_damaged_alone_and_must_be_refused_by_its_own_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tests.soak.damage._require_times_of_reading", lambda _: None)
    counts = _damage_caches(tmp_path / "right", "")
    assert counts["caches flipped"] == 2
    assert counts["damaged caches that it read only without the others"] == 1  # `a`
    with pytest.raises(SoakError, match=r"it refused a\.safetensors, which was whole"):
        _damage_caches(tmp_path / "other", "blames another")
    with pytest.raises(SoakError, match="it refused none of these damaged caches"):
        _damage_caches(tmp_path / "silent", "silent")
    with pytest.raises(SoakError, match=r"it read b\.safetensors, which was damaged, and did not refuse it"):
        _damage_caches(tmp_path / "reads", "reads what is damaged")


def test_caches_are_the_same_if_only_what_is_measured_differs(tmp_path: Path) -> None:
    def cache(name: str, **tensors: float) -> Path:
        save_file({key.replace("_", "."): torch.tensor(value) for key, value in tensors.items()}, tmp_path / name)
        return tmp_path / name

    timed = cache("timed", a_ms=1.0, threads=2.0)
    assert is_same_cache(timed, cache("again", a_ms=3.0, threads=2.0))
    assert not is_same_cache(timed, cache("other", a_ms=1.0, threads=3.0))
    assert not is_same_cache(timed, cache("more", a_ms=1.0, b_ms=1.0, threads=2.0))
    assert not is_same_cache(cache("x", x=1.0), cache("y", x=2.0))
    (tmp_path / "half").write_bytes(timed.read_bytes()[:-4])
    assert not is_same_cache(tmp_path / "half", timed)


class _Writing:
    """A project with a checkpoint of step 3 and a cache, of which a full disk may take nothing."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.folder = root / ".checkpoints/add/key"
        self.folder.mkdir(parents=True)
        (root / "models").mkdir()
        self.save(3)
        (self.folder / "prompts.safetensors").write_bytes(b"x")

    def declared(self, _: str) -> list[Path]:
        return [self.root / "models/distilled", self.root / "metrics/add.json"]

    def save(self, num_done: int) -> None:
        torch.save({"num_done": num_done}, self.folder / "add.pt")


@pytest.mark.parametrize(
    ("name", "is_right"),
    [
        ("models/distilled/unet/model.safetensors", True),
        ("metrics/add.json", True),
        (".checkpoints/add/key/add.pt", True),
        (".", False),
        ("models", False),
        (".checkpoints", False),
        ("models/.distilled-x1", False),
        (".checkpoints/add/key/.add-x1/add.pt", False),
        ("a file that the error does not name, while working in /project", False),
    ],
)
def test_the_message_of_a_full_disk_must_name_a_file_that_the_stage_writes(
    name: str, is_right: bool, tmp_path: Path
) -> None:
    project = cast("Project", _Writing(tmp_path))
    run, message = _run("add"), f"{name}: No space left on device; free some disk. {KEPT}"
    for each in (message, message.replace(name, str(tmp_path / name), 1)):
        with nullcontext() if is_right else pytest.raises(SoakError, match="names no file that the stage writes"):
            require_written(run, project, each)


def _lose_steps(project: _Writing) -> None:
    project.save(2)


def _lose_checkpoint(project: _Writing) -> None:
    (project.folder / "add.pt").unlink()


def _lose_cache(project: _Writing) -> None:
    (project.folder / "prompts.safetensors").unlink()


def _leave_half_a_checkpoint(project: _Writing) -> None:
    (project.folder / ".add-x1").mkdir()


def _leave_half_a_model(project: _Writing) -> None:
    (project.root / "models/.distilled-x1").mkdir()


@pytest.mark.parametrize(
    "fault", [_lose_steps, _lose_checkpoint, _lose_cache, _leave_half_a_checkpoint, _leave_half_a_model]
)
def test_a_full_disk_may_take_nothing_that_was_saved_and_leave_nothing_half_written(
    fault: Callable[[_Writing], None], tmp_path: Path
) -> None:
    project = _Writing(tmp_path)
    run, before = _run("add"), _run("add").progress(cast("Project", project))
    assert before == Progress(3, before.files)
    assert len(before.files) == 1
    project.save(4)
    require_kept(run, cast("Project", project), before)
    fault(project)
    with pytest.raises(SoakError):
        require_kept(run, cast("Project", project), before)
