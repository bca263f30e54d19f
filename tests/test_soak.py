"""What `make soak` accepts: a disturbance that happened, the documented exits, and trials of the present code."""

import json
import random
import signal
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, cast

import pytest

from tests.project import Project
from tests.soak import __main__ as soak
from tests.soak.damage import damage, follow
from tests.soak.log import DEMANDS, lacking, trial_key
from tests.soak.trial import INTERRUPTED, STAGES, Run, SoakError, Trial, first_step, require_interrupted

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


def _row(kind: str, stage: str, *, failure: str = "", **counts: int) -> dict[str, Any]:
    return {"kind": kind, "stage": stage, "failure": failure, "counts": counts}


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
    row = {"trial": trial.name, "key": own.key(trial.kind, trial.stage), **_row("kill", "add")}
    own.log.write_text(json.dumps(row) + "\n")
    assert len(own.rows()) == 1
    assert trial not in own.trials()
    change(finished)
    own = soak.Soak(tmp_path, cast("Project", finished), STAGES, KINDS)
    assert own.rows() == []
    assert next(each for each in own.trials() if each.stage == "add" and each.kind == "kill") == trial


def test_the_code_of_one_kind_of_trial_is_no_part_of_the_key_of_another(finished: _Finished) -> None:
    project = cast("Project", finished)
    signals = trial_key("add", project, "tests/soak/signals.py")
    assert signals == trial_key("add", project, "tests/soak/signals.py")
    assert signals != trial_key("add", project, "tests/soak/disks.py")


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
